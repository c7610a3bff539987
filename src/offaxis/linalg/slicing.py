"""Compiled loops that round the lines of a matrix to bytes, and scale the products of bytes.

A matrix is given by its entries in memory, from its first to its last one, with the number of
entries from one row to the next and the number of columns. Import this module late: it loads
numba. Every loop has a plain equivalent in `coarse`, which tests hold against it.
"""

import numpy as np
from numpy.typing import NDArray

from offaxis.linalg.kernels import compiled

_FAST = {"reassoc", "contract", "nsz", "nnan"}
_LEVELS = np.float32(127)
_FINER = np.float32(128)
_LANES = 64  # sums and maxima of a row kept side by side: one alone waits for each entry

Entries = NDArray[np.float32]


@compiled(_FAST)
def largest_by_row(A: Entries, step: int, cols: int, out: Entries) -> None:
    """Write the largest magnitude of every row."""
    lanes = np.empty(_LANES, np.float32)
    for i in range(out.shape[0]):
        row = A[i * step : i * step + cols]
        lanes[:] = 0
        for start in range(0, cols, _LANES):
            part = row[start : start + _LANES]
            for j in range(part.shape[0]):
                lanes[j] = max(lanes[j], abs(part[j]))
        out[i] = lanes.max()


@compiled(_FAST)
def largest_by_column(A: Entries, step: int, rows: int, out: Entries) -> None:
    """Write the largest magnitude of every column."""
    out[:] = 0
    for i in range(rows):
        row = A[i * step : i * step + out.shape[0]]
        for j in range(out.shape[0]):
            out[j] = max(out[j], abs(row[j]))


@compiled(_FAST)
def first_slice(  # noqa: PLR0917
    A: Entries,
    step: int,
    scale: Entries,
    out: NDArray[np.int8],
    inner: NDArray[np.float64],
    square: NDArray[np.float64],
    energy: NDArray[np.float64],
) -> None:
    """Round every entry to a byte in units of its line.

    `scale`, a column or a row, holds the inverse units, powers of two. For each line are added, in
    its unit, the inner product of what is rounded and what came out, and the squares of both.
    """
    cols, by_row = out.shape[1], scale.shape == (out.shape[0], 1)
    lanes = np.empty((3, _LANES), np.float32)
    a, b, c = lanes[0], lanes[1], lanes[2]
    for i in range(out.shape[0]):
        row, to = A[i * step : i * step + cols], out[i]
        if by_row:
            s = scale[i, 0]
            lanes[:] = 0
            for start in range(0, cols, _LANES):
                part, into = row[start : start + _LANES], to[start : start + _LANES]
                for j in range(part.shape[0]):
                    x = part[j] * s
                    r = min(max(np.rint(x), -_LEVELS), _LEVELS)
                    into[j] = np.int8(r)
                    a[j] += x * r
                    b[j] += r * r
                    c[j] += x * x
            for j in range(_LANES):
                inner[i] += a[j]
                square[i] += b[j]
                energy[i] += c[j]
        else:
            for j in range(cols):
                x = row[j] * scale[0, j]
                r = min(max(np.rint(x), -_LEVELS), _LEVELS)
                to[j] = np.int8(r)
                inner[j] += np.float64(x * r)
                square[j] += np.float64(r * r)
                energy[j] += np.float64(x * x)


@compiled(_FAST)
def second_slice(
    A: Entries, step: int, scale: Entries, first: NDArray[np.int8], out: NDArray[np.int8]
) -> None:
    """Round what the first slice left, in units 128 times smaller."""
    cols, by_row = out.shape[1], scale.shape == (out.shape[0], 1)
    for i in range(out.shape[0]):
        row, before, to = A[i * step : i * step + cols], first[i], out[i]
        for j in range(cols):
            x = row[j] * (scale[i, 0] if by_row else scale[0, j])
            r = np.rint((x - np.float32(before[j])) * _FINER)
            to[j] = np.int8(min(max(r, -_LEVELS), _LEVELS))


@compiled(_FAST)
def add_scaled(C: NDArray[np.int32], left: Entries, right: Entries, out: Entries) -> None:
    """Add integers times the units of their row (a column of them) and their column (a row)."""
    for i in range(C.shape[0]):
        u, row, to = left[i, 0], C[i], out[i]
        for j in range(C.shape[1]):
            to[j] += np.float32(row[j]) * (u * right[0, j])
