"""What one matrix costs to measure: bytes, memory and time, stated before it is begun."""

import time
from collections.abc import Callable, Iterable
from functools import cache

import torch

from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.views import View
from offaxis.diagnostics.base import Tier
from offaxis.linalg.products import product

FLOAT64, FLOAT32 = 8, 4

_FIXED = 12 << 20
"""Tables by magnitude, and entries in work."""

_BUFFERS = 128 << 20
"""What BLAS, LAPACK and the heap keep beside large matrices; of smaller ones, 26 bytes an entry."""

_FOLLOWED = 1 << 18
_RESTORED = 112
"""Bytes of each of the entries that spikes are followed on."""

_SMALL = 512
"""Up to this dimension a step's leading vectors come from its Gram matrix."""

# Work in multiples of one product of its size or of one pass over its entries, fitted to timings of
# both tiers (make bench, make bench-model).
_TRIDIAGONAL = 5.0
"""Reducing a p x p matrix is bound by memory: its p^3 cost as much as so many of a product."""
_EIGENVECTORS = 26.0
_READING_PASSES = 160.0
"""Passes over the delta for its entries, leading values and effective rank."""
_DRAW_PASSES = 265.0
"""The same for one draw of each random null."""


def stored_bytes(view: View) -> int:
    """Bytes that a checkpoint holds of a view."""
    return view.numel * _itemsize(view.dtype)


def read_bytes(piece: Piece) -> int:
    """Bytes that are read for one logical matrix: the whole of what it is cut out of."""
    return piece.numel_read * _itemsize(piece.dtype)


def cutting_bytes(piece: Piece) -> int:
    """Memory that is held beside a matrix while it is cut out of what was read."""
    return 0 if piece.is_as_read else read_bytes(piece)


def _itemsize(dtype: str) -> int:
    itemsize: int = getattr(torch, dtype).itemsize
    return itemsize


def peak_bytes(view: View, tier: Tier, top: int, dtypes: Iterable[str] = ()) -> int:
    """Memory that measuring a view holds at most, whatever the number of checkpoints.

    Factoring the anchor takes its Gram matrix, which becomes its eigenvectors, and LAPACK's work of
    twice that size, or those vectors and the right ones. A checkpoint is measured beside the anchor
    as stored, its masks, its basis in float32 and its leading vectors in float64; it takes, in
    turn, its own Gram matrix while it is there as stored (exact tier), and the update with what a
    projection, a draw's entries or the spikes' restoration need, or with its own Gram matrix.

    Args:
        view: The matrix.
        tier: By which engine.
        top: How many leading vectors of the anchor are held in float64.
        dtypes: Those that checkpoints are read in: of what an adapter changes, float64.
    """
    if view.kind == "elements":
        return _FIXED + 6 * FLOAT64 * view.numel
    p, q = sorted(view.shape)
    stored, square = stored_bytes(view), p * p * FLOAT64
    widest = max(map(_itemsize, (view.dtype, *dtypes)))
    wide = FLOAT32 if widest <= 2 else FLOAT64
    current = widest * view.numel
    basis, vectors = (p * p + p * q) * FLOAT32, (p + q) * top * FLOAT64
    factoring = stored + max(3 * square, square + p * q * FLOAT64 + vectors)
    held = stored + view.numel + basis + vectors
    work = max(2 * square, view.numel * FLOAT32, _RESTORED * min(view.numel, _FOLLOWED))
    measuring = wide * view.numel + max(work, current)
    if tier == "exact":
        rotating = current + square + 4 * vectors + p * q * FLOAT32
        stepping = (wide + FLOAT64) * view.numel if p > _SMALL else 0
        measuring = max(measuring, rotating, stepping)
    return _beside(view) + max(factoring, held + measuring)


def comparing_bytes(view: View, walk_draws: int) -> int:
    """Memory that comparing the checkpoints of a view holds at most, whatever their number.

    A position of every walk of the null in float32, beside what one is factored with.
    """
    if view.kind == "elements":
        return _FIXED
    return 2 * _FIXED + _beside(view) + (walk_draws + 1) * FLOAT32 * view.numel


def _beside(view: View) -> int:
    """What is held beside matrices."""
    return _FIXED + min(26 * view.numel, _BUFFERS)


def seconds(view: View, tier: Tier, num_units: int, num_draws: int) -> float:
    """Estimated time on one core of a view in so many units, from products timed here."""
    if view.kind == "elements":
        return 2e-3 * num_units
    p, q = sorted(view.shape)
    double, single = _seconds_per_flop()
    a_pass = p * q * _seconds_per_entry()
    gram, cube = p * p * q * double, p**3 * double
    anchor = 4 * gram + _EIGENVECTORS * cube
    exact = 3 * gram + 2 * _TRIDIAGONAL * cube
    project = 2 * p * p * q * single
    fast = 2 * project + _READING_PASSES * a_pass
    draws = num_draws * (2 * project + _DRAW_PASSES * a_pass)
    return anchor + num_units * (draws + fast + (exact if tier == "exact" else 0.0))


@cache
def _seconds_per_flop() -> tuple[float, float]:
    """One floating-point operation of a matrix product, in float64 and in float32."""
    return _timed(torch.float64), _timed(torch.float32)


@cache
def _seconds_per_entry() -> float:
    """One pass over the entries of a float32 matrix that no cache holds."""
    A = torch.ones(1 << 24)
    return _best(lambda: A.mul_(1.0)) / A.numel()


def _timed(dtype: torch.dtype) -> float:
    side = 512
    A = torch.randn(side, side, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return _best(lambda: product(A, A)) / (2 * side**3)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of three runs."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
