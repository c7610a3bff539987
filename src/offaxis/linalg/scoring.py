"""A compiled loop that sums scores of bfloat16 entries by row and by column.

Import this module late: it loads numba. Its plain equivalent is in `lines`, which tests hold
against it.
"""

import numpy as np
from numpy.typing import NDArray

from offaxis.linalg.kernels import compiled, is_changed

_U = np.uint64
_HALF = np.uint16


@compiled()
def add_scores(  # noqa: PLR0917
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    scores: NDArray[np.float32],
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
) -> None:
    """Add three scores of every entry to its row and to its column.

    Args:
        a: Bits of the anchor.
        b: Bits of the checkpoint.
        codes: Mask codes below 16.
        scores: 8192 x 4, by exponent, code and change; the last column is not read.
        rows: m x 3.
        cols: n x 3.
    """
    wide = np.zeros((a.shape[1], 4), np.float32)
    for i in range(a.shape[0]):
        first = second = third = np.float64(0)
        for j in range(_U(a.shape[1])):
            x, y = a[i, j], b[i, j]
            cell = ((_U(x >> _HALF(7)) & _U(0xFF)) * _U(16) + _U(codes[i, j])) * _U(2) + _U(
                is_changed(x, y)
            )
            p, q, r = scores[cell, 0], scores[cell, 1], scores[cell, 2]
            first += p
            second += q
            third += r
            wide[j, 0] += p
            wide[j, 1] += q
            wide[j, 2] += r
        rows[i, 0], rows[i, 1], rows[i, 2] = first, second, third
    for j in range(a.shape[1]):
        for k in range(3):
            cols[j, k] += wide[j, k]
