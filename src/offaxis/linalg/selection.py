"""Compiled loops that select the largest keys by their bits.

Import this module late: it loads numba. Every loop has a plain equivalent in `masks`, which tests
hold against it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offaxis.linalg.kernels import compiled, prefetch

PART = 4096  # entries that stay in the first-level cache

_U = np.uint64
_AHEAD = 2048  # words of 8 bytes that memory is asked for before they are counted
_LINE = 8  # words that memory brings together


@compiled()
def count_digits(
    bits: NDArray[Any], words: NDArray[np.uint64], flip: int, shift: int, table: NDArray[np.int64]
) -> None:
    """Count the bits above `shift` of keys, but for their sign: as many as the table tells apart.

    Args:
        bits: Signed integers.
        words: The same memory in words of 8 bytes, a last part of one left out.
        flip: 0, or -1 for keys in falling order.
        shift: Number of bits below the counted ones.
        table: A power of two counts.
    """
    keep, down, turn = _U(table.shape[0] - 1), _U(shift), _U(flip)
    for i in range(_U(words.shape[0])):
        if i & _U(_LINE - 1) == _U(0):
            prefetch(words, i + _U(_AHEAD))
        word = (words[i] ^ turn) >> down
        table[word & keep] += 1
        if bits.itemsize <= 4:
            table[(word >> _U(32)) & keep] += 1
        if bits.itemsize == 2:
            table[(word >> _U(16)) & keep] += 1
            table[(word >> _U(48)) & keep] += 1
    for i in range(words.shape[0] * 8 // bits.itemsize, bits.shape[0]):
        table[((_U(bits[i]) ^ turn) >> down) & keep] += 1


@compiled()
def count_within(  # noqa: PLR0917
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
def _places(  # noqa: PLR0917
    words: NDArray[np.uint64],
    bits: NDArray[Any],
    start: int,
    index: NDArray[np.int64],
    held: NDArray[Any],
    found: int,
) -> int:
    """Write where the bytes of a part are not zero, and the values there; few are."""
    part = words.view(np.uint8)
    for j in range(_U(0), _U(PART // 8), _U(4)):
        if words[j] | words[j + _U(1)] | words[j + _U(2)] | words[j + _U(3)] == _U(0):
            continue
        for i in range(j * _U(8), j * _U(8) + _U(32)):
            if part[i] != np.uint8(0):
                index[found] = np.int64(_U(start) + i)
                held[found] = bits[_U(start) + i]
                found += 1
    return found


@compiled()
def mark(  # noqa: PLR0917
    bits: NDArray[Any],
    rule: NDArray[Any],
    inside: int,
    tie: int,
    codes: NDArray[np.uint8],
    index: NDArray[np.int64],
    held: NDArray[Any],
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
        held: Room for their bits.

    Returns:
        How many places were written.
    """
    flip, mask, first, last = rule[0], rule[1], rule[2], rule[3]
    beyond, at = np.uint8(inside), np.uint8(tie)
    words = np.zeros(PART // 8, np.uint64)
    within = words.view(np.uint8)
    found = 0
    for start in range(_U(0), _U(bits.shape[0]), _U(PART)):
        length = min(_U(PART), _U(bits.shape[0]) - start)
        if length < _U(PART):
            words[:] = _U(0)
        for i in range(length):
            key = (bits[start + i] ^ flip) & mask
            above = np.uint8(key > last)
            within[i] = np.uint8(key >= first) ^ above
            codes[start + i] += beyond * above + at * within[i]
        if index.shape[0] > 0:
            found = _places(words, bits, start, index, held, found)
    return found
