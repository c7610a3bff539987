"""What one matrix costs to measure: bytes, memory and time, stated before it is begun."""

import time
from functools import cache

import torch

from offaxis.checkpoints.views import View
from offaxis.diagnostics.base import Tier
from offaxis.linalg.products import product

FLOAT64, FLOAT32 = 8, 4

# Work in multiples of one product of its size, fitted to timings of both tiers (make bench).
_TRIDIAGONAL = 14.0
"""Reducing a p x p matrix is bound by memory: its p^3 cost as much as so many of a product."""
_EIGENVECTORS = 26.0
_LANCZOS = 160.0
"""Passes over the delta for leading values, random signs and effective rank."""


def stored_bytes(view: View) -> int:
    """Bytes that a checkpoint holds of a view."""
    itemsize: int = getattr(torch, view.dtype).itemsize
    return view.numel * itemsize


def peak_bytes(view: View, tier: Tier) -> int:
    """Memory that measuring a view holds at most, whatever the number of checkpoints.

    The anchor as stored with its masks and its basis in float32, the checkpoint as stored, the
    delta and a working copy of it; beside them the larger of what factoring the anchor takes and
    of what the tier's own factorisation does.
    """
    if view.kind == "elements":
        return 6 * FLOAT64 * view.numel
    p, q = sorted(view.shape)
    wide = FLOAT32 if getattr(torch, view.dtype).itemsize <= 2 else FLOAT64
    held = 2 * stored_bytes(view) + view.numel * (1 + wide) + (p * p + p * q) * FLOAT32
    square = p * p * FLOAT64
    return held + (4 * square if tier == "exact" else 3 * square) + 2 * FLOAT64 * q * (p // 4 + 1)


def comparing_bytes(view: View, walk_draws: int) -> int:
    """Memory that comparing the checkpoints of a view holds at most, whatever their number.

    A position of every walk of the null in float32, and another while it is factored.
    """
    return 0 if view.kind == "elements" else (walk_draws + 2) * FLOAT32 * view.numel


def seconds(view: View, tier: Tier, num_units: int, num_draws: int) -> float:
    """Estimated time on one core of a view in so many units, from products timed here."""
    if view.kind == "elements":
        return 2e-3 * num_units
    p, q = sorted(view.shape)
    double, single = _seconds_per_flop()
    gram, cube = p * p * q * double, p**3 * double
    anchor = 4 * gram + _EIGENVECTORS * cube
    exact = 3 * gram + 2 * _TRIDIAGONAL * cube
    project, passes = 2 * p * p * q * single, _LANCZOS * p * q * single
    fast = 2 * project + passes
    draws = num_draws * (project + passes / 2)
    return anchor + num_units * (draws + fast + (exact if tier == "exact" else 0.0))


@cache
def _seconds_per_flop() -> tuple[float, float]:
    """One floating-point operation of a matrix product, in float64 and in float32."""
    return _timed(torch.float64), _timed(torch.float32)


def _timed(dtype: torch.dtype) -> float:
    side, times = 512, []
    A = torch.randn(side, side, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        begun = time.perf_counter()
        product(A, A)
        times.append(time.perf_counter() - begun)
    return min(times) / (2 * side**3)
