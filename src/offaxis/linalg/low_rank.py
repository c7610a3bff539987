"""Products of two thin factors, D = L R': what is known of them without forming them."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg.orthonormal import orthonormalised
from offaxis.linalg.products import product

_EPS = torch.finfo(torch.float64).eps
_ENTRIES = 1 << 18  # multiplied at a time


class Triples(NamedTuple):
    """The singular triples of L R', descending; `bound` holds for every value.

    There are t = min(m, n, r) of them; all other singular values are zero.
    """

    left: Float64[Tensor, "m t"]
    s: Float64[Tensor, " t"]
    right: Float64[Tensor, "n t"]
    bound: float

    @property
    def norm(self) -> float:
        """Frobenius norm of the product."""
        return float(self.s.norm())

    @property
    def row_norms(self) -> Float64[Tensor, " m"]:
        """Norms of its rows."""
        norms: Tensor = (self.left * self.s).norm(dim=1)
        return norms

    @property
    def col_norms(self) -> Float64[Tensor, " n"]:
        """Norms of its columns."""
        norms: Tensor = (self.right * self.s).norm(dim=1)
        return norms


def triples(left: Float64[Tensor, "m r"], right: Float64[Tensor, "n r"]) -> Triples:
    r"""Return the singular triples of L R' from QR of both factors and the SVD of R_L R_R'.

    Values err by rounding of $\lVert L\rVert_F\lVert R\rVert_F$, which is more than that of
    the product where the factors cancel in it. Memory and time are those of the factors.

    Source:
        Higham 2002, "Accuracy and Stability of Numerical Algorithms", theorem 19.4, with the
        growth of rounding errors as the root of the dimension as in `factors.spectrum`.
    """
    size = max(left.shape[0], right.shape[0]) + left.shape[1]
    (Q, A), (P, B) = torch.linalg.qr(left), torch.linalg.qr(right)
    U, s, Vh = torch.linalg.svd(A @ B.T, full_matrices=False)
    bound = 8 * (size + 8) ** 0.5 * _EPS * float(A.norm()) * float(B.norm())
    return Triples(product(Q, U), s, product(P, Vh.T.contiguous()), bound)


def completed(X: Float64[Tensor, "n t"], k: int) -> Float64[Tensor, "n k"]:
    """Return the first k of orthonormal columns, and an arbitrary completion where there are fewer.

    The k columns are orthonormal; k is at most n.
    """
    missing = k - X.shape[1]
    if missing <= 0:
        return X[:, :k].contiguous()
    generator = torch.Generator().manual_seed(0)
    fill = torch.randn(X.shape[0], missing, generator=generator, dtype=X.dtype).to(X.device)
    return orthonormalised(torch.cat([X, fill], 1))


def dense(
    left: Float64[Tensor, "m r"], right: Float64[Tensor, "n r"], dtype: torch.dtype
) -> Float[Tensor, "m n"]:
    """Return the product in a format, each entry rounded once from float64."""
    D = left.new_empty(left.shape[0], right.shape[0], dtype=dtype)
    write_product_(D, left, right)
    return D


def write_product_(
    D: Float[Tensor, "m n"], left: Float64[Tensor, "m r"], right: Float64[Tensor, "n r"]
) -> None:
    """Put the product into a buffer, each entry rounded once from float64."""
    across, height = right.T.contiguous(), max(1, _ENTRIES // max(right.shape[0], 1))
    for rows, part in zip(D.split(height), left.split(height), strict=True):
        rows.copy_(product(part.contiguous(), across))
