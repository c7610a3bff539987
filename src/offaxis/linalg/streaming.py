"""A compiled product with a Gram operator that reads its matrix once.

Import this module late: it loads numba. Its plain equivalent is in `krylov`, which tests hold
against it.
"""

import numpy as np
from numpy.typing import NDArray

from offaxis.linalg.kernels import compiled

_ROWS = 128  # summed in float32 before they join the others: a sum of sums rounds less
_U = np.uint64


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _add_rows(
    A: NDArray[np.float32],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    z: NDArray[np.float32],
) -> None:
    """Set y to Ax and add A'y to z, four rows at a time, which the second loop finds in cache."""
    whole = A.shape[0] // 4 * 4
    for i in range(0, whole, 4):
        a, b, c, d = A[i], A[i + 1], A[i + 2], A[i + 3]
        p = q = r = s = np.float32(0)
        for j in range(_U(x.shape[0])):
            p += a[j] * x[j]
            q += b[j] * x[j]
            r += c[j] * x[j]
            s += d[j] * x[j]
        for j in range(_U(x.shape[0])):
            z[j] += (p * a[j] + q * b[j]) + (r * c[j] + s * d[j])
        y[i], y[i + 1], y[i + 2], y[i + 3] = p, q, r, s
    for i in range(whole, A.shape[0]):
        a, p = A[i], np.float32(0)
        for j in range(_U(x.shape[0])):
            p += a[j] * x[j]
        for j in range(_U(x.shape[0])):
            z[j] += p * a[j]
        y[i] = p


@compiled()
def image_and_back(
    A: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]
) -> None:
    """Set y to Ax and z to A'y, for a contiguous A."""
    part = np.zeros_like(z)
    z[:] = 0
    for start in range(0, A.shape[0], _ROWS):
        part[:] = 0
        _add_rows(A[start : start + _ROWS], x, y[start : start + _ROWS], part)
        z += part
