"""What the precision gate alone does to masks: expected densities, overlaps and odds ratios.

A weight shows a change where the update exceeds half its unit in the last place, so that small
weights change more often whatever the update. The functions with an `rms` assume a Gaussian update
of that size; the stratified ones assume only that the update does not depend on the weight: inside
a binade all weights have the same gate.

A *table* counts the entries of a matrix by the exponent field of the anchor's bf16 value, by mask
code, and by whether the bf16 value changed; *weights* give the weight of an entry of each code in a
mask, in [0, 1].

Source:
    The gate: arXiv:2511.08567, "Gate III". Strata by exponent are derived here.
"""

import math
from typing import NamedTuple

from jaxtyping import Float64, Int64
from torch import Tensor

from offaxis.linalg.lines import Chance
from offaxis.linalg.rounding import Grid, passing


class Expected(NamedTuple):
    """Mean and standard deviation of a share under a null."""

    mean: float
    sd: float


def gate_density(grid: Grid, rms: float, eta: float, error: float = 0.0) -> Expected:
    """Return the share of entries that a Gaussian update, independent of W, changes in bf16.

    Args:
        grid: The anchor on the bf16 grid.
        rms: Root mean square of the update's entries, >= 0.
        eta: The relative tolerance of what counts as unchanged.
        error: Standard error of log rms, which adds to the spread.

    Returns:
        The share in [0, 1], and its standard deviation over updates.
    """
    count = float(grid.counts.sum())
    p, larger = (passing(grid, r, eta) for r in (rms, rms * math.exp(error)))
    mean = float((grid.counts * p).sum()) / count
    spread = math.sqrt(float((grid.counts * p * (1 - p)).sum())) / count
    return Expected(mean, math.hypot(spread, float((grid.counts * larger).sum()) / count - mean))


def gate_overlap(
    grid: Grid, rms: float, eta: float, weights: Float64[Tensor, " codes"], error: float = 0.0
) -> Expected | None:
    """Return the share of a Gaussian update's visible changes that falls into a mask.

    Arguments as for `gate_density`; the spread is that of a ratio to first order. None where no
    change is expected.
    """
    p, larger = (passing(grid, r, eta) for r in (rms, rms * math.exp(error)))
    inside = grid.codes @ weights
    changed = float((grid.counts * p).sum())
    if changed == 0:
        return None
    mean = float((inside * p).sum()) / changed
    deviations = (grid.codes * (weights - mean).square()).sum(1)
    spread = math.sqrt(float((p * (1 - p) * deviations).sum())) / changed
    shift = float((inside * larger).sum() / (grid.counts * larger).sum()) - mean
    return Expected(mean, math.hypot(spread, shift))


def stratified_overlap(
    table: Int64[Tensor, "256 codes 2"], weights: Float64[Tensor, " codes"]
) -> Expected | None:
    r"""Return the share of the visible changes that falls into a mask if only the binade matters.

    $\sum_e c_ep_e/\sum_e c_e$ with $c_e$ the changes in binade e and $p_e$ the mask's share of it.
    The spread is that of placing the changes at random inside each binade (hypergeometric). None
    where nothing changed.
    """
    strata = _strata(table, weights)
    total = float(strata.changed.sum())
    if total == 0:
        return None
    h, c, share = strata.entries, strata.changed, strata.inside / strata.entries
    codes = table.sum(2).double()[strata.binades]
    variance = (codes * (weights - share[:, None]).square()).sum(1) / h
    placed = c * (h - c) / (h - 1).clamp(min=1) * variance
    return Expected(float((c * share).sum()) / total, math.sqrt(float(placed.sum())) / total)


class OddsRatio(NamedTuple):
    """An odds ratio and the standard error of its logarithm."""

    value: float
    log_sd: float


def odds_ratio(
    table: Int64[Tensor, "256 codes 2"],
    weights: Float64[Tensor, " codes"],
    chance: Chance | None = None,
) -> OddsRatio | None:
    """Return the odds of change inside a mask over those outside, binade by binade.

    The Mantel-Haenszel estimate: 1 where the update ignores the mask, below 1 where it avoids it,
    whatever the law of the update and however the gate closes with magnitude. What rows and columns
    explain, whose sizes in weights and update may agree by chance, is taken out where it is given,
    and the standard error grows by the share of the mask that they explain; without it, the
    standard error holds for updates whose rows and columns are alike. None where either side of
    the comparison is empty in every binade: nothing changed, everything did, the mask holds none or
    all.

    Source:
        Mantel & Haenszel 1959, doi:10.1093/jnci/22.4.719; the standard error is that of Robins,
        Breslow & Greenland 1986, doi:10.2307/2531052.
    """
    h, c, mask, both = _strata(table, weights)[:4]
    hit, miss, free, calm = both, mask - both, c - both, h - mask - c + both
    agree, differ = (hit + calm) / h, (miss + free) / h
    R, S = hit * calm / h, miss * free / h
    right, wrong = float(R.sum()), float(S.sum())
    if right <= 0 or wrong <= 0:
        return None
    variance = (
        float((agree * R).sum()) / (2 * right**2)
        + float((agree * S + differ * R).sum()) / (2 * right * wrong)
        + float((differ * S).sum()) / (2 * wrong**2)
    )
    if chance is None:
        return OddsRatio(right / wrong, math.sqrt(variance))
    left = 1 - chance.explained
    own = (right - wrong - chance.difference) / left
    half = min(max((right - wrong - own) / 2, -0.99 * wrong), 0.99 * right)
    return OddsRatio((right - half) / (wrong + half), math.sqrt(variance / left))


class _Strata(NamedTuple):
    """Binade by binade: its entries, those changed, those inside the mask, those both."""

    entries: Tensor
    changed: Tensor
    inside: Tensor
    both: Tensor
    binades: Tensor


def _strata(table: Tensor, weights: Tensor) -> _Strata:
    """The table without its empty binades, its codes weighed by the mask."""
    binades = table.sum((1, 2)).nonzero()[:, 0]
    counts = table[binades].double()
    changed = counts[..., 1]
    return _Strata(
        counts.sum((1, 2)), changed.sum(1), counts.sum(2) @ weights, changed @ weights, binades
    )
