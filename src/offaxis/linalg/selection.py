"""Compiled loops that select the largest keys by their bits.

Import this module late: it loads numba. Every loop has a plain equivalent in `masks`, which tests
hold against it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offaxis.linalg.kernels import compiled

_U = np.uint64


@compiled()
def histogram(  # noqa: PLR0917
    bits: NDArray[Any], flip: int, shift: int, width: int, prefix: int, table: NDArray[np.int64]
) -> None:
    """Count the `width` bits above `shift` of the keys whose bits before them are `prefix`.

    Args:
        bits: Signed integers, whose sign is no part of the key.
        flip: 0, or -1 for keys in falling order.
        shift: Number of bits below the counted ones.
        width: Number of counted bits.
        prefix: What the bits above the counted ones must be.
        table: 2^width counts.
    """
    keep = np.int64(table.shape[0] - 1)
    sign = np.int64(8 * bits.itemsize - 1)
    mask = np.int64(~(np.int64(-1) << sign))
    for i in range(_U(bits.shape[0])):
        digits = ((np.int64(bits[i]) ^ flip) & mask) >> shift
        if digits >> width == prefix:
            table[_U(digits & keep)] += 1


@compiled()
def mark(  # noqa: PLR0917
    bits: NDArray[Any],
    rule: NDArray[Any],
    inside: int,
    tie: int,
    codes: NDArray[np.uint8],
    index: NDArray[np.int64],
) -> int:
    """Add `inside` to the codes of keys beyond an interval, `tie` within it.

    Args:
        bits: Signed integers, whose sign is no part of the key.
        rule: Of the same type: 0, or -1 for keys in falling order; the largest key; the interval's
            first and last.
        inside: A code.
        tie: A code.
        codes: The codes of the keys.
        index: Room for the places of the keys within the interval, or nothing.

    Returns:
        How many places were written.
    """
    flip, mask, first, last = rule[0], rule[1], rule[2], rule[3]
    for i in range(_U(bits.shape[0])):
        key = (bits[i] ^ flip) & mask
        codes[i] += np.uint8(inside) if key > last else np.uint8(tie if key >= first else 0)
    found = 0
    if index.shape[0] > 0:
        for i in range(_U(bits.shape[0])):
            key = (bits[i] ^ flip) & mask
            if first <= key <= last:
                index[found] = i
                found += 1
    return found
