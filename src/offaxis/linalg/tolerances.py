"""Absolute tolerances: how many entries moved by no more than a fixed amount."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg.rounding import Grid, cell_of, narrowed, staying

_BLOCK = 1 << 18  # entries compared at a time


class Within(NamedTuple):
    """Entries that moved by no more than a tolerance: in bf16, as stored, and of how many."""

    in_bf16: int
    stored: int
    entries: int


def within(
    anchor: Float[Tensor, "*shape"], current: Float[Tensor, "*shape"], tolerance: float
) -> Within:
    """Count the entries whose absolute change is at most a tolerance.

    In bf16 both values and their difference are rounded, as in the source.

    Args:
        anchor: Finite values of any floating-point format.
        current: Likewise.
        tolerance: In units of weight, >= 0.

    Source:
        Mukherjee et al. 2025, arXiv:2505.11711, and its code.
    """
    a, b = anchor.reshape(-1), current.reshape(-1)
    counts = torch.zeros(2, dtype=torch.int64)
    for x, y in zip(a.split(_BLOCK), b.split(_BLOCK), strict=True):
        step = narrowed(y) - narrowed(x)
        counts[0] += int((step.double().abs() <= tolerance).sum())
        counts[1] += int(((y.double() - x.double()).abs() <= tolerance).sum())
    return Within(int(counts[0]), int(counts[1]), a.numel())


def gaussian_within(rms: float, tolerance: float) -> float:
    """Return the share of a Gaussian update that is within a tolerance, in [0, 1]."""
    return math.erf(tolerance / (rms * math.sqrt(2))) if rms > 0 else 1.0


def gate_within(weights: Grid, rms: float, tolerance: float) -> float:
    r"""Return the same share as bf16 files show it.

    An entry w stays within where $w+\Delta$, $\Delta\sim N(0,\text{rms}^2)$, rounds to a bf16 value
    at most the tolerance away from that of w. Where the anchor does not lie on the grid, the place
    of w inside its rounding cell is averaged over.
    """
    if rms == 0:
        return 1.0
    a = weights.magnitudes
    stay = staying(weights, rms, _reach_below(a, tolerance), _reach(a, tolerance))
    return float((weights.counts * stay).sum() / weights.counts.sum())


def _reach(a: Float64[Tensor, " v"], tolerance: float) -> Float64[Tensor, " v"]:
    """The largest value that rounds to a bf16 value at most the tolerance above a >= 0."""
    return torch.maximum(cell_of(_floor(a + tolerance))[1], cell_of(a)[1])


def _reach_below(a: Float64[Tensor, " v"], tolerance: float) -> Float64[Tensor, " v"]:
    """The least value that rounds to a bf16 value at most the tolerance below a >= 0."""
    under = a - tolerance
    inside = cell_of(_ceiling(under.clamp(min=0)))[0]
    across = -cell_of(_floor((-under).clamp(min=0)))[1]
    return torch.minimum(torch.where(under > 0, inside, across), cell_of(a)[0])


def _floor(x: Float64[Tensor, " v"]) -> Float64[Tensor, " v"]:
    """The largest bf16 value that is at most x >= 0."""
    near = narrowed(x)
    down = (near.view(torch.int16) - 1).clamp(min=0).view(torch.bfloat16)
    return torch.where(near.double() <= x, near, down).double()


def _ceiling(x: Float64[Tensor, " v"]) -> Float64[Tensor, " v"]:
    """The least bf16 value that is at least x >= 0."""
    near = narrowed(x)
    up = (near.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(near.double() >= x, near, up).double()
