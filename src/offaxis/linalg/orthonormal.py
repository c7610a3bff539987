"""Columns that are nearly orthonormal, made so to rounding."""

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.linalg.products import product

_NEARLY = 0.1  # the largest defect that one Cholesky step removes to rounding


def orthonormalised(X: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
    """Return an orthonormal basis of nested column spaces, signs kept.

    The first j columns span what the first j columns of X span. Where those are orthonormal to 0.1
    already a Cholesky factor of their Gram matrix does, three times cheaper than Householder's QR,
    which takes the rest and completes the basis where X is rank deficient.

    Source:
        CholeskyQR; Stathopoulos & Wu 2002, doi:10.1137/S1064827500370883.
    """
    inner = product(X.T, X)
    eye = torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    if float((inner - eye).norm()) < _NEARLY:
        L = torch.linalg.cholesky(inner)
        return product(X, torch.linalg.solve_triangular(L, eye, upper=False).T)
    Q, R = torch.linalg.qr(X)
    signed: Tensor = Q * torch.where(R.diagonal() < 0, -1.0, 1.0)
    return signed
