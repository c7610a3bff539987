"""LAPACK routines that scipy carries and does not wrap, or wraps with full-size outputs."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba.extending import get_cython_function_address
from numpy.typing import NDArray
from scipy.linalg import cython_lapack, lapack

Array = NDArray[np.float64]

_BAND = 64  # width of the band that the two-stage reduction passes through


def _call(routine: Callable[..., Any], *arguments: object) -> int:
    """Call a Fortran routine whose last argument is `info`, and return it."""
    info = ctypes.c_int(0)
    passed: list[object] = []
    for a in arguments:
        if isinstance(a, bytes):
            passed.append(ctypes.c_char_p(a))
        elif isinstance(a, int):
            passed.append(ctypes.byref(ctypes.c_int(a)))
        elif isinstance(a, float):
            passed.append(ctypes.byref(ctypes.c_double(a)))
        elif isinstance(a, np.ndarray):
            passed.append(ctypes.c_void_p(a.ctypes.data))
        else:
            passed.append(a)
    strings = [ctypes.c_size_t(1) for a in arguments if isinstance(a, bytes)]
    routine(*passed, ctypes.byref(info), *strings)
    return info.value


@cache
def _wrapped(name: str) -> Callable[..., Any]:
    """One of the routines that scipy offers to compiled code."""
    address = get_cython_function_address("scipy.linalg.cython_lapack", name)
    return ctypes.CFUNCTYPE(None)(address)


def stemr(d: Array, e: Array, first: int, last: int) -> tuple[Array, Array] | None:
    """Return eigenvalues first..last (from 0, ascending) of a tridiagonal matrix, and vectors.

    Returns:
        The values and the vectors as columns; None where the routine did not converge.

    Source:
        LAPACK `dstemr`, multiple relatively robust representations; Dhillon & Parlett 2004,
        doi:10.1016/j.laa.2003.12.028.
    """
    n, k = d.size, last - first + 1
    values, Z = np.empty(n), np.empty((n, k), order="F")
    found, robust = ctypes.c_int(0), ctypes.c_int(1)
    support = np.empty(2 * k, dtype=np.int32)
    off_diagonal = np.append(e, 0.0)
    info = _call(
        _wrapped("dstemr"),
        *(b"V", b"I", n, d.copy(), off_diagonal, 0.0, 0.0, first + 1, last + 1),
        *(ctypes.byref(found), values, Z, n, k, support, ctypes.byref(robust)),
        *(np.empty(18 * n), 18 * n, np.empty(10 * n, dtype=np.int32), 10 * n),
    )
    return (values[:k], Z) if info == 0 and found.value == k else None


def apply_reflectors(A: Array, tau: Array, C: Array) -> None:
    """Replace C by Q C, with Q as `dsytrd` left it in the lower triangle of A (Fortran order)."""
    n, k = C.shape
    work = np.empty(64 * max(n, k))
    info = _call(
        _wrapped("dormtr"), b"L", b"L", b"N", n, k, A, A.shape[0], tau, C, n, work, work.size
    )
    _succeed(info)


def two_stage(A: Array) -> tuple[Array, Array]:
    """Reduce a symmetric matrix to a tridiagonal one by way of a band; for eigenvalues alone.

    Twice as fast as `dsytrd` once the matrix is larger than the cache, since its work is products
    of blocks. To be called where `has_two_stage`. Overwrites the lower triangle of A (Fortran
    order); peak extra memory: 200 n float64 numbers.

    Returns:
        Diagonal and off-diagonal.

    Source:
        LAPACK `dsytrd_sy2sb` and `dsytrd_sb2st`; Haidar, Ltaief & Dongarra 2011,
        doi:10.1145/2063384.2063394.
    """
    n = A.shape[0]
    band, tau = np.zeros((_BAND + 1, n), order="F"), np.empty(n)
    d, e = np.empty(n), np.empty(n - 1)
    to_band = _symbol("dsytrd_sy2sb")
    stage = (b"L", n, _BAND, A, n, band, _BAND + 1, tau)
    (length,) = _workspace(to_band, *stage, sizes=1)
    _succeed(_call(to_band, *stage, np.empty(length), length))
    to_tridiagonal = _symbol("dsytrd_sb2st")
    second_stage = (b"Y", b"N", b"L", n, _BAND, band, _BAND + 1, d, e)
    first, second = _workspace(to_tridiagonal, *second_stage, sizes=2)
    _succeed(_call(to_tridiagonal, *second_stage, np.empty(first), first, np.empty(second), second))
    return d, e


@cache
def has_two_stage() -> bool:
    """Whether scipy's LAPACK carries the routines, tried on a matrix of known eigenvalues."""
    n = 3 * _BAND
    values = np.linspace(1.0, 2.0, n)
    v = np.cos(np.arange(n))
    H = np.eye(n) - 2 * np.outer(v, v) / (v @ v)
    try:
        d, e = two_stage(np.asfortranarray(H * values @ H))
    except (AttributeError, OSError, RuntimeError):
        return False
    found, info = lapack.dsterf(d, e)
    return bool(info == 0 and np.abs(found - values).max() < 1e-12)


def _workspace(routine: Callable[..., Any], *arguments: object, sizes: int) -> list[int]:
    """Ask a routine for the lengths of its work arrays."""
    lengths = [np.empty(1) for _ in range(sizes)]
    queries = [part for length in lengths for part in (length, -1)]
    _succeed(_call(routine, *arguments, *queries))
    return [int(length[0]) for length in lengths]


def _succeed(info: int) -> None:
    if info != 0:
        raise RuntimeError(f"LAPACK refused its argument {-info}")


@cache
def _symbol(name: str) -> Callable[..., Any]:
    """A routine of the LAPACK that scipy is linked to, under the names its builds use."""
    library = ctypes.CDLL(cython_lapack.__file__)
    own = f"scipy_{name}_"
    routine: Callable[..., Any] = getattr(library, own if hasattr(library, own) else f"{name}_")
    return routine
