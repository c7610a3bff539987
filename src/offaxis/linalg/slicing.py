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

Entries = NDArray[np.float32]


@compiled(_FAST)
def largest_by_row(A: Entries, step: int, cols: int, out: Entries) -> None:
    """Write the largest magnitude of every row."""
    for i in range(out.shape[0]):
        row = A[i * step : i * step + cols]
        largest = np.float32(0)
        for j in range(cols):
            largest = max(largest, abs(row[j]))
        out[i] = largest


@compiled(_FAST)
def largest_by_column(A: Entries, step: int, rows: int, out: Entries) -> None:
    """Write the largest magnitude of every column."""
    out[:] = 0
    for i in range(rows):
        row = A[i * step : i * step + out.shape[0]]
        for j in range(out.shape[0]):
            out[j] = max(out[j], abs(row[j]))


@compiled(_FAST)
def first_slice(
    A: Entries, step: int, scale: Entries, unit: Entries, out: NDArray[np.int8]
) -> tuple[float, float]:
    """Round every entry to a byte in units of its line.

    `scale` and `unit`, inverse to each other, are powers of two, a column or a row of them.

    Returns:
        The squared norms of what is lost and of the matrix.
    """
    total = energy = 0.0
    cols, by_row = out.shape[1], scale.shape == (out.shape[0], 1)
    for i in range(out.shape[0]):
        row, to = A[i * step : i * step + cols], out[i]
        lost = held = np.float32(0)
        if by_row:
            s, u = scale[i, 0], unit[i, 0]
            for j in range(cols):
                x = row[j] * s
                r = min(max(np.rint(x), -_LEVELS), _LEVELS)
                to[j] = np.int8(r)
                lost += (x - r) * (x - r)
                held += x * x
            square = np.float64(u) * np.float64(u)
            total += np.float64(lost) * square
            energy += np.float64(held) * square
        else:
            for j in range(cols):
                r = min(max(np.rint(row[j] * scale[0, j]), -_LEVELS), _LEVELS)
                to[j] = np.int8(r)
                d = row[j] - r * unit[0, j]
                lost += d * d
                held += row[j] * row[j]
            total += np.float64(lost)
            energy += np.float64(held)
    return total, energy


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
