"""Compiled loops over the bits of bfloat16 matrices.

Import this module late: it loads numba. Every loop has a plain equivalent in `elementwise`, which
tests hold against it.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

BLOCK = 2048  # entries whose bits stay in the first-level cache
FOLD = 1024  # entries summed in float32 before float64 takes over
EXPONENTS = 14  # that a one-byte class can tell apart, beside 16 codes and 16 unchanged values

_SAFE = 2.0**-110  # a float32 sum of 1024 terms this large lost at most 2^-27 of it to underflow
_FINITE = 2.0**127
_U = np.uint64
_HALF = np.uint16
_WORD = np.uint32
_ELSEWHERE = np.uint16(EXPONENTS << 4)


_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(fastmath: set[str] | None = None) -> Callable[[_F], _F]:
    """Compile at the first call, and keep the result where a folder can be written."""

    def compile_(function: _F) -> _F:
        plain = inspect.unwrap(function)  # run-time checkers wrap what they annotate
        options = {"nogil": True, "fastmath": fastmath or False}
        try:
            return cast(_F, numba.njit(cache=True, **options)(plain))
        except RuntimeError:  # no writable folder for the cache
            return cast(_F, numba.njit(**options)(plain))

    return compile_


@intrinsic
def prefetch(_, array, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Ask for memory that will be read soon."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, integer = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(array, index), build


@compiled()
def low_value(word: np.uint32) -> np.float32:
    """The bfloat16 value in the lower half of a word."""
    return _WORD(_WORD(word) << _WORD(16)).view(np.float32)


@compiled()
def _high(word: np.uint32) -> np.float32:
    return _WORD(word & _WORD(0xFFFF0000)).view(np.float32)


@compiled()
def is_changed(x: np.uint16, y: np.uint16) -> bool:
    """Whether the bits of two bfloat16 values are those of different numbers: zeros have a sign."""
    found: bool = (x != y) & (((x | y) & _HALF(0x7FFF)) != 0)
    return found


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _sums_in_lanes(
    a: NDArray[np.uint32], b: NDArray[np.uint32], start: int
) -> tuple[np.float32, np.float32]:
    """Sum in float32, two bfloat16 values to a word, in whatever order is fastest."""
    squares = fourth = np.float32(0)
    for i in range(_U(start), _U(start) + _U(FOLD // 2)):
        d, D = low_value(b[i]) - low_value(a[i]), _high(b[i]) - _high(a[i])
        q, Q = d * d, D * D
        squares += q + Q
        fourth += q * q
        fourth += Q * Q
    return squares, fourth


@compiled()
def _differ(a: NDArray[np.uint32], b: NDArray[np.uint32], start: int) -> bool:
    found = _WORD(0)
    for i in range(_U(start), _U(start) + _U(FOLD // 2)):
        found = _WORD(found | (a[i] ^ b[i]))
    return bool(found != _WORD(0))


@compiled()
def _sums_of_bits(a: NDArray[np.uint16], b: NDArray[np.uint16], out: NDArray[np.float64]) -> None:
    for i in range(a.shape[0]):
        x, y = np.float64(low_value(_WORD(a[i]))), np.float64(low_value(_WORD(b[i])))
        d = y - x if x != y else 0.0  # two equal infinities differ by nothing
        out[0] += d * d
        out[1] += d * d * d * d


@compiled()
def _sums_of_block(
    a: NDArray[np.uint32], b: NDArray[np.uint32], start: int, out: NDArray[np.float64]
) -> None:
    """Add the sums of the block that begins at a word; of slices, Numba would count references."""
    for s in range(start, start + BLOCK // 2, FOLD // 2):
        squares, fourth = _sums_in_lanes(a, b, s)
        if fourth > _SAFE and squares + fourth < _FINITE:
            out[0] += squares
            out[1] += fourth
        elif _differ(a, b, s):
            x, y = a[s : s + FOLD // 2], b[s : s + FOLD // 2]
            _sums_of_bits(x.view(np.uint16), y.view(np.uint16), out)


@compiled()
def _classes(  # noqa: PLR0917
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    unchanged: NDArray[np.uint8],
    low: np.uint16,
    start: int,
    code_start: int,
    classes: NDArray[np.uint8],
) -> None:
    """Name each entry's exponent and code by a byte; 0 to 15 where it did not change."""
    first, code_first = _U(start), _U(code_start)  # unsigned places are not looked for from the end
    for i in range(_U(BLOCK)):
        x, y, code = a[first + i], b[first + i], codes[code_first + i]
        key = _HALF(_HALF(_HALF((x & _HALF(0x7F80)) >> _HALF(3)) - low) + _HALF(code))
        key = _HALF(min(key, _ELSEWHERE) + _HALF(16))
        classes[i] = np.uint8(key) if is_changed(x, y) else unchanged[i]


@compiled()
def _count_pairs(  # noqa: PLR0917
    words: NDArray[np.uint64],
    pairs: NDArray[np.uint32],
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    start: int,
    code_start: int,
    table: NDArray[np.int64],
) -> None:
    """Count classes two at a time: half the increments, and fewer that wait for the one before."""
    for i in range(_U(words.shape[0])):
        word = words[i]
        here = _U(start) + i * _U(8)
        if i & _U(3) == _U(0):  # the next block, while increments keep the core busy
            prefetch(a, here + _U(BLOCK))
            prefetch(b, here + _U(BLOCK))
            prefetch(codes, _U(code_start) + i * _U(8) + _U(BLOCK))
        pairs[word & _U(0xFFFF)] += _WORD(1)
        pairs[(word >> _U(16)) & _U(0xFFFF)] += _WORD(1)
        pairs[(word >> _U(32)) & _U(0xFFFF)] += _WORD(1)
        pairs[word >> _U(48)] += _WORD(1)
        # a byte of 0xF0 is an exponent outside the window
        if (
            ((word & _U(0x7F7F7F7F7F7F7F7F)) + _U(0x1010101010101010))
            & word
            & _U(0x8080808080808080)
        ):
            for j in range(_U(8)):
                if (word >> (j * _U(8))) & _U(0xFF) == _U(0xF0):
                    exponent = (_U(a[here + j]) >> _U(7)) & _U(0xFF)
                    table[exponent, codes[_U(code_start) + i * _U(8) + j]] += 1


@compiled()
def _fold(pairs: NDArray[np.uint32], first: int, table: NDArray[np.int64]) -> None:
    counts = np.zeros(256, np.int64)
    for key in range(256):
        row = pairs[key * 256 : (key + 1) * 256]
        for other in range(256):
            counts[other] += np.int64(row[other])
            counts[key] += np.int64(row[other])
    for key in range(16, int(_ELSEWHERE) + 16):
        exponent = first + (key >> 4) - 1
        if exponent < 256:
            table[exponent, key & 15] += counts[key]


@compiled()
def pass_over(  # noqa: PLR0917
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    first: int,
    table: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """Add the sums of a pair of bfloat16 vectors to `out`, its changed entries to `table`.

    Args:
        a: Bits of the anchor, fewer than 2^32.
        b: Bits of the checkpoint.
        codes: Mask codes below 16, or nothing where every code is 0.
        first: The first of the consecutive exponents that most entries have.
        table: Changed entries by exponent and code, 256 x 16.
        out: The sums of the delta's squares and of their squares.
    """
    pairs = np.zeros(65536, np.uint32)
    words = np.zeros(BLOCK // 8, np.uint64)
    classes = words.view(np.uint8)
    unchanged = (np.arange(BLOCK) & 15).astype(np.uint8)
    zeros = np.zeros(BLOCK, np.uint8)
    masked = codes.shape[0] > 0
    all_codes = codes if masked else zeros
    low = _HALF(first << 4)
    whole = a.shape[0] // BLOCK * BLOCK
    a_words, b_words = a[:whole].view(np.uint32), b[:whole].view(np.uint32)
    for s in range(0, whole, BLOCK):
        code_start = s if masked else 0
        _classes(a, b, all_codes, unchanged, low, s, code_start, classes)
        _sums_of_block(a_words, b_words, s // 2, out)
        _count_pairs(words, pairs, a, b, all_codes, s, code_start, table)
    _fold(pairs, first, table)
    for i in range(whole, a.shape[0]):
        if a[i] != b[i] and ((a[i] | b[i]) & _HALF(0x7FFF)) != 0:
            table[(a[i] >> 7) & 0xFF, codes[i] if masked else 0] += 1
    _sums_of_bits(a[whole:], b[whole:], out)


@compiled()
def magnitudes(a: NDArray[np.uint16], codes: NDArray[np.uint8], table: NDArray[np.int64]) -> None:
    """Add the entries to `table`, 32768 x 16, by magnitude bits and code (none: 0)."""
    masked = codes.shape[0] > 0
    for i in range(_U(a.shape[0])):
        table[a[i] & _HALF(0x7FFF), codes[i] if masked else np.uint8(0)] += 1
