"""The facts of one update: its entries counted once, decomposed once."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.diagnostics.facts import WeightUpdate
from offaxis.engine import exact, fast, low_rank
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.gates import through_the_gate
from offaxis.engine.low_rank import Factors
from offaxis.engine.parts import Parts
from offaxis.engine.relatives import kept_of, with_relatives
from offaxis.linalg.differences import RELATIVE_ERROR, Difference, difference
from offaxis.linalg.elementwise import count
from offaxis.linalg.low_rank import Triples, triples


class Facts(NamedTuple):
    """What is known of one update, the buffer that holds it, and what later stages build on."""

    update: WeightUpdate
    delta: Tensor
    kept: Mapping[str, Tensor]


class Stored(NamedTuple):
    """How to read a checkpoint's matrix, the format of its file, and that of the masters.

    The matrix is read when it is needed, and not held while its update is decomposed. The format
    of the masters is that in which training held the weights, by torch's name. Where the update is
    a product of thin factors, its spectrum is theirs, and the matrix the anchor's plus the product.
    """

    read: Callable[[], Tensor]
    dtype: torch.dtype
    master: str = "unknown"
    factors: Factors | None = None


def facts_of(anchor: PreparedAnchor, stored: Stored, seed: int) -> Facts:
    """Count and decompose the update from a prepared anchor to a checkpoint's matrix.

    The current matrix is factored before the update is formed, so that what the two factorisations
    take is not in memory at once.
    """
    request, current = anchor.request, stored.read()
    first = Parts()
    if request.tier == "exact" and not _equal(current, anchor.W):
        first = exact.movement(anchor, current, request.needs)
    counts = {
        eta: count(anchor.W, current, anchor.codes, eta, strata=anchor.strata)
        for eta in request.etas
    }
    thin = None if stored.factors is None else triples(*stored.factors)
    moved = _moved(anchor, current, stored, thin)
    update = WeightUpdate(
        anchor=anchor.facts,
        storage=stored.dtype,
        norm=moved.norm,
        norm_error=RELATIVE_ERROR if thin is None else low_rank.norm_error(thin),
        counts=counts,
        master=stored.master,
    )
    if counts:
        update = through_the_gate(anchor, update, current)
    update = with_relatives(anchor, update, current, moved)
    del current
    kept = {"norm": torch.tensor(moved.norm, dtype=torch.float64), **kept_of(update)}
    if not request.is_matrix:
        return Facts(update, moved.D, kept)
    parts = first.beside(_decomposed(anchor, stored, moved, thin, seed))
    m, n = moved.D.shape
    kept |= {"row_rms": moved.row_norms / n**0.5, "col_rms": moved.col_norms / m**0.5}
    return Facts(parts.of(update), moved.D, kept | dict(parts.kept))


def _moved(
    anchor: PreparedAnchor, current: Tensor, stored: Stored, thin: Triples | None
) -> Difference:
    if stored.factors is None or thin is None:
        return difference(anchor.W, current)
    is_narrow = anchor.W.dtype.itemsize <= 2
    return low_rank.moved_by(stored.factors, thin, torch.float32 if is_narrow else torch.float64)


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) if a.dtype == b.dtype else not bool((a != b).any())


def _decomposed(
    anchor: PreparedAnchor, stored: Stored, moved: Difference, thin: Triples | None, seed: int
) -> Parts:
    request, delta, norm = anchor.request, moved.D, moved.norm
    if norm == 0:
        return _zero(anchor)
    found = None if thin is None else low_rank.parts_of(thin, request.vectors)
    if request.tier == "exact":
        found = found or exact.of_delta(
            delta, norm=norm, rounding=moved.rounding, vectors=request.vectors, seed=seed
        )
        return (
            found.beside(fast.blocks(anchor, delta, norm)) if "blocks" in request.needs else found
        )
    found = fast.decompose(anchor, delta, norm, seed, needs=request.needs, known=found)
    if fast.lacks(found, request, request.needs):
        found = fast.mended(found, exact.movement(anchor, stored.read(), request.needs))
    return found


def _zero(anchor: PreparedAnchor) -> Parts:
    """Nothing moved: the curves are those of the anchor, and no direction is one of the update."""
    request, facts = anchor.request, anchor.facts
    zeros = torch.zeros(facts.p, dtype=torch.float64)
    K = request.vectors
    kept = {
        "left": torch.eye(facts.rows, K, dtype=torch.float64),
        "right": torch.eye(facts.cols, K, dtype=torch.float64),
        "delta_spectrum": zeros,
        "residuals": zeros[:K],
    }
    if anchor.basis is not None and request.tier == "exact":
        kept |= {"anchor_spectrum": facts.s, "current_spectrum": facts.s.clone()}
    if request.k:
        kept |= {"angles_left": zeros[: request.k], "angles_right": zeros[: request.k].clone()}
    return Parts(kept=kept)
