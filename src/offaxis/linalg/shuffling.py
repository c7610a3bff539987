"""Compiled loops that flip signs and shuffle, by the random words of numpy's SFC64.

Import this module late: it loads numba. Every loop has a plain equivalent in `ensembles`, which
tests hold against it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offaxis.linalg.kernels import compiled, prefetch

_U = np.uint64
_AHEAD = 32  # entries whose partners are on their way into the cache
_CHUNK = 4096


@compiled()
def _next(state: NDArray[np.uint64]) -> np.uint64:
    """The next word of SFC64, whose four words of state are moved on.

    Source:
        Doty-Humphrey, PractRand, "sfc64"; numpy's `SFC64`.
    """
    word: np.uint64 = state[0] + state[1] + state[3]
    state[3] += _U(1)
    state[0] = state[1] ^ (state[1] >> _U(11))
    state[1] = state[2] + (state[2] << _U(3))
    state[2] = ((state[2] << _U(24)) | (state[2] >> _U(40))) + word
    return word


@compiled()
def flip(bits: NDArray[Any], state: NDArray[np.uint64]) -> None:
    """Flip the highest bit of every entry whose bit of the words, lowest first, is set."""
    one = bits.dtype.type(1)
    top = bits.dtype.type(8 * bits.itemsize - 1)
    whole = bits.shape[0] // 64 * 64
    for start in range(_U(0), _U(whole), _U(64)):
        word = _next(state)
        for i in range(_U(64)):
            bits[start + i] ^= bits.dtype.type((word >> i) & _U(1)) << top
    if whole < bits.shape[0]:
        word = _next(state)
        for i in range(whole, bits.shape[0]):
            bits[i] ^= (bits.dtype.type(word >> _U(i - whole)) & one) << top


@compiled()
def shuffle(values: NDArray[Any], state: NDArray[np.uint64]) -> None:
    """Shuffle in place: from the last entry on, each changes places with one not behind it.

    A word w and the number of candidates n give the place floor(wn / 2^64).

    Source:
        Fisher & Yates 1938; Durstenfeld 1964, doi:10.1145/364520.364540.
    """
    places = np.empty(_CHUNK, np.uint64)
    last = values.shape[0] - 1
    while last > 0:
        count = min(_CHUNK, last)
        for t in range(count):
            word, n = _next(state), _U(last + 1 - t)
            places[t] = ((word >> _U(32)) * n + (((word & _U(0xFFFFFFFF)) * n) >> _U(32))) >> _U(32)
        for t in range(_U(count)):
            if t + _U(_AHEAD) < _U(count):
                prefetch(values, places[t + _U(_AHEAD)])
            here, there = _U(last) - t, places[t]
            values[here], values[there] = values[there], values[here]
        last -= count
