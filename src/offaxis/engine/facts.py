"""The facts of one update: its entries counted once, decomposed once."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.diagnostics.base import WeightUpdate
from offaxis.engine import exact, fast
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.parts import Parts
from offaxis.linalg import visibility
from offaxis.linalg.elementwise import Counts, count, profile
from offaxis.linalg.sums import RELATIVE_ERROR, difference, frobenius
from offaxis.linalg.visibility import OpenSteps, VisibleFraction


class Facts(NamedTuple):
    """What is known of one update, the buffer that holds it, and what later stages build on."""

    update: WeightUpdate
    delta: Tensor
    kept: Mapping[str, Tensor]


class Stored(NamedTuple):
    """A checkpoint's matrix as it was read, the format of its file, and that of the masters.

    The format of the masters is that in which training held the weights, by torch's name.
    """

    W: Tensor
    dtype: torch.dtype
    master: str = "unknown"


def facts_of(anchor: PreparedAnchor, stored: Stored, seed: int) -> Facts:
    """Count and decompose the update from a prepared anchor to a checkpoint's matrix.

    The current matrix is factored before the update is formed, so that what the two factorisations
    take is not in memory at once.
    """
    request, current = anchor.request, stored.W
    moved = bool((current != anchor.W).any())
    first = Parts()
    if request.tier == "exact" and moved:
        first = exact.movement(anchor, current, request.needs)
    counts = {eta: count(anchor.W, current, anchor.codes, eta) for eta in request.etas}
    delta = difference(anchor.W, current)
    norm = frobenius(delta)
    steps = _open_steps(anchor, current, counts)
    update = WeightUpdate(
        anchor=anchor.facts,
        storage=stored.dtype,
        norm=norm,
        norm_error=RELATIVE_ERROR,
        counts=counts,
        master=stored.master,
        steps=steps,
        visible=_visible(anchor, counts, norm, stored.dtype, steps),
    )
    kept = {"norm": torch.tensor(norm, dtype=torch.float64)}
    if not request.is_matrix:
        return Facts(update, delta, kept)
    parts = first.beside(_decomposed(anchor, current, delta, norm, seed))
    rows, cols = profile(delta)
    kept |= {"row_rms": (rows / delta.shape[1]).sqrt(), "col_rms": (cols / delta.shape[0]).sqrt()}
    return Facts(parts.of(update), delta, kept | dict(parts.kept))


def _decomposed(
    anchor: PreparedAnchor, current: Tensor, delta: Tensor, norm: float, seed: int
) -> Parts:
    request = anchor.request
    if norm == 0:
        return _zero(anchor)
    if request.tier == "exact":
        found = exact.of_delta(delta, norm=norm, vectors=request.vectors)
        return (
            found.beside(fast.blocks(anchor, delta, norm)) if "blocks" in request.needs else found
        )
    found = fast.decompose(anchor, delta, norm, seed, needs=request.needs)
    if fast.lacks(found, request, request.needs):
        found = found.beside(exact.movement(anchor, current, request.needs))
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


def _open_steps(
    anchor: PreparedAnchor, current: Tensor, counts: Mapping[float, Counts]
) -> OpenSteps | None:
    """The steps of the weights whose every change shows, on an anchor of bf16 values."""
    if not counts or not anchor.facts.grid.on_grid:
        return None
    limit = visibility.open_limit(counts[min(counts)].table)
    if limit is None:
        return None
    return visibility.open_steps(anchor.W.bfloat16(), current, limit)


def _visible(
    anchor: PreparedAnchor,
    counts: Mapping[float, Counts],
    norm: float,
    storage: torch.dtype,
    steps: OpenSteps | None,
) -> VisibleFraction | None:
    """Measured where the file holds more than bf16, estimated where it holds bf16."""
    if not counts or norm == 0:
        return None
    found = counts[min(counts)]
    if storage != torch.bfloat16:
        return VisibleFraction(math.sqrt(found.visible_squares) / norm, 0.0, "measured")
    if not anchor.facts.grid.on_grid or found.visible_squares == 0:
        return None
    error = math.sqrt(found.visible_fourth) / found.visible_squares
    rms = math.sqrt(found.visible_squares / found.entries)
    return visibility.visible_fraction(anchor.facts.grid, rms, error, steps)
