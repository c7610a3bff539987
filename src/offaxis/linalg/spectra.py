"""Singular value decompositions in float64, exact by LAPACK or through the Gram matrix."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.errors import NumericsError

_WELL_RESOLVED = 1e-3  # above it, vectors from the Gram are orthonormal to 1e-10


class Factors(NamedTuple):
    """Left vectors (columns), singular values (descending) and right vectors (rows).

    The vectors are absent where only the spectrum was asked for.
    """

    U: Tensor | None
    s: Tensor
    Vh: Tensor | None


def exact_svd(W: Float64[Tensor, "m n"]) -> Factors:
    """Return the thin SVD by LAPACK's divide and conquer; backward stable, the judge."""
    with _explained(W):
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    return Factors(U, s, Vh)


def gram_svd(W: Float64[Tensor, "m n"], k: int | None = None) -> Factors:
    """Return the thin SVD from the eigenvectors of the smaller Gram matrix.

    About three times cheaper than `exact_svd`. Squaring loses singular values below 1e-8 of the
    largest; what is kept of the spectrum agrees to about 1e-9 relative. The vectors of the longer
    side are orthonormalised where small values would spoil them. Used for the draws of null
    ensembles.

    Args:
        W: The matrix.
        k: How many leading vectors to return; all by default. The spectrum is always whole.
    """
    wide = W.shape[0] <= W.shape[1]
    A = W if wide else W.T
    with _explained(W):
        eigenvalues, Q = torch.linalg.eigh(A @ A.T)
    s = eigenvalues.flip(0).clamp(min=0).sqrt()
    Q = Q.flip(1)[:, :k]
    kept = s[: Q.shape[1]]
    R = (Q.T @ A) / torch.where(kept > 0, kept, 1)[:, None]
    if kept[-1] < _WELL_RESOLVED * s[0]:
        R = torch.linalg.qr(R.T).Q.T
    return Factors(Q, s, R) if wide else Factors(R.T, s, Q.T)


@contextmanager
def _explained(W: Tensor) -> Iterator[None]:
    """Turn LAPACK's failure to converge into an error of ours."""
    try:
        yield
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export
        raise NumericsError(
            f"a decomposition of a {W.shape[0]} x {W.shape[1]} matrix",
            expected="LAPACK to converge",
            found=str(error).splitlines()[0],
            do="report the matrix: finite weights of ordinary size always converge",
        ) from error
