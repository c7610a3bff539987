"""Whether several updates of one anchor touch the same entries, beside chance and the gate."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from offaxis.linalg.rounding import narrowed


class Expected(NamedTuple):
    """Mean and standard deviation of a share under a null."""

    mean: float
    sd: float


class Hits(NamedTuple):
    """Which entries several updates changed, counted by stratum: the binade of the anchor.

    Attributes:
        entries: How many entries each stratum has.
        changed: Of these, how many each update changed.
        both: How many each two of them changed together.
        times: How many entries were changed by none, one, two ... of them.
    """

    entries: Int64[Tensor, " e"]
    changed: Int64[Tensor, "r e"]
    both: Int64[Tensor, "r r e"]
    times: Int64[Tensor, " t"]


def hits_of(anchors: Sequence[Float[Tensor, "m n"]], masks: Sequence[Bool[Tensor, "m n"]]) -> Hits:
    """Count what the masks of several updates share.

    Args:
        anchors: The matrix that all of them start from; or those of different starts, whose binades
            together then make the strata.
        masks: Where each update shows a change.
    """
    anchor, strata = anchors[0], _strata(anchors)
    count = int(strata.max()) + 1

    def counted(mask: Tensor) -> Tensor:
        return torch.bincount(strata[mask.reshape(-1)], minlength=count)

    both = torch.stack([torch.stack([counted(a & b) for b in masks]) for a in masks])
    times = sum((mask.long() for mask in masks), torch.zeros(anchor.shape, dtype=torch.int64))
    return Hits(
        torch.bincount(strata, minlength=count),
        torch.stack([counted(mask) for mask in masks]),
        both,
        torch.bincount(times.reshape(-1), minlength=len(masks) + 1),
    )


def _strata(anchors: Sequence[Tensor]) -> Int64[Tensor, " mn"]:
    """The stratum of every entry, counted from 0."""
    strata = torch.zeros(anchors[0].numel(), dtype=torch.int64)
    for W in anchors:
        binade = narrowed(W).view(torch.int16).long() >> 7 & 0xFF
        strata = torch.unique(strata * 256 + binade.reshape(-1), return_inverse=True)[1]
    return strata


def jaccard(hits: Hits, a: int, b: int) -> float | None:
    r"""Return $|A\cap B|/|A\cup B|$ of two masks, in [0, 1]; None where both are empty.

    Source:
        arXiv:2511.08567, section 2.2.
    """
    both = float(hits.both[a, b].sum())
    either = float(hits.changed[a].sum() + hits.changed[b].sum()) - both
    return both / either if either else None


def coverage(hits: Hits, a: int, b: int) -> float | None:
    """Return the share of the first mask that the second holds; None where the first is empty.

    Source:
        arXiv:2606.13657, one-sided coverage.
    """
    first = float(hits.changed[a].sum())
    return float(hits.both[a, b].sum()) / first if first else None


def independent_jaccard(hits: Hits, a: int, b: int) -> float | None:
    """Return pq/(p + q - pq) for two masks of densities p and q; None where both are empty.

    Source:
        arXiv:2511.08567, section 2.2: the Bernoulli baseline.
    """
    total = float(hits.entries.sum())
    p, q = (float(hits.changed[i].sum()) / total for i in (a, b))
    return p * q / (p + q - p * q) if p + q else None


def gated_overlap(hits: Hits, a: int, b: int) -> Expected:
    r"""Return how many entries two masks share where only the binade matters.

    $\sum_ea_eb_e/h_e$, the changes of each update placed at random in its binade: the precision
    gate alone makes two updates agree on small weights. The spread is hypergeometric.
    """
    h = hits.entries.double().clamp(min=1)
    x, y = (hits.changed[i].double() for i in (a, b))
    variance = x * y * (h - x) * (h - y) / (h.square() * (h - 1).clamp(min=1))
    return Expected(float((x * y / h).sum()), float(variance.sum()) ** 0.5)


def gated_jaccard(hits: Hits, a: int, b: int) -> Expected | None:
    """Return `jaccard` of two masks that share what the gate alone makes them share.

    To first order in the spread of the overlap. None where both are empty.
    """
    both = gated_overlap(hits, a, b)
    total = float(hits.changed[a].sum() + hits.changed[b].sum())
    if not total:
        return None
    either = total - both.mean
    return Expected(both.mean / either, both.sd * total / either**2)


def gated_coverage(hits: Hits, a: int, b: int) -> Expected | None:
    """Return `coverage` of two masks that share what the gate alone makes them share."""
    both, first = gated_overlap(hits, a, b), float(hits.changed[a].sum())
    return Expected(both.mean / first, both.sd / first) if first else None


def consensus(hits: Hits) -> Float64[Tensor, " t"]:
    r"""Return the law of the consensus ratio: the share of entries changed by 0, 1 ... R updates.

    Source:
        arXiv:2511.08567, section 2.2: $C_{ij}=\frac1R\sum_rM^{(r)}_{ij}$.
    """
    return hits.times.double() / hits.times.sum()


def gated_consensus(hits: Hits) -> Float64[Tensor, " t"]:
    """Return the mean of `consensus` where the updates agree on binades alone."""
    h = hits.entries.double()
    share = hits.changed.double() / h.clamp(min=1)
    return _times(share) @ h / h.sum()


def independent_consensus(hits: Hits) -> Float64[Tensor, " t"]:
    """Return the mean of `consensus` where the updates agree on nothing but their densities."""
    share = hits.changed.sum(1, keepdim=True).double() / hits.entries.sum()
    return _times(share)[:, 0]


def _times(share: Float64[Tensor, "r e"]) -> Float64[Tensor, "t e"]:
    """The law of how many of R independent events happen, for each column of probabilities."""
    law = torch.zeros(len(share) + 1, share.shape[1], dtype=torch.float64)
    law[0] = 1
    for p in share:
        law = law * (1 - p) + torch.roll(law, 1, 0) * p  # the last row is empty before it is full
    return law
