"""Compiled loops that subtract bfloat16 matrices and sum the squares of what comes out.

Import this module late: it loads numba. Every loop has a plain equivalent in `differences`, which
tests hold against it.
"""

import numpy as np
from numpy.typing import NDArray

from offaxis.linalg.kernels import compiled, low_value

_FOLD = 1024  # entries of a row summed before the sum is added to the row's
_WORD = np.uint32


@compiled({"reassoc", "contract", "nsz"})
def subtract(  # noqa: PLR0917
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    out: NDArray[np.float32],
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
    lost: NDArray[np.float64],
) -> None:
    """Write b - a in float32; add squares of the exact differences, and of what float32 lost.

    The bits of both are given as m x n; `lost` has one number for each row.
    """
    n = a.shape[1]
    for i in range(a.shape[0]):
        for start in range(0, n, _FOLD):
            stop = min(start + _FOLD, n)
            x, y, to = a[i, start:stop], b[i, start:stop], out[i, start:stop]
            held = cols[start:stop]
            square = error = 0.0
            for j in range(stop - start):
                exact = np.float64(low_value(_WORD(y[j]))) - np.float64(low_value(_WORD(x[j])))
                rounded = np.float32(exact)
                to[j] = rounded
                left = exact - np.float64(rounded)
                squared = exact * exact
                held[j] += squared
                square += squared
                error += left * left
            rows[i] += square
            lost[i] += error
