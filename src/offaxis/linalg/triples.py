"""The singular triples that a Krylov space holds, and what rounding and equal values do to them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from offaxis.linalg.krylov import Ritz, Space, ritz
from offaxis.linalg.products import product

ROUNDING = 32
"""How often the unit roundoff a singular value may be off by."""


class Triples(NamedTuple):
    r"""Singular triples, values descending.

    Attributes:
        left: Left vectors, as columns.
        s: Their values.
        right: Right vectors, as columns.
        residual: Of each triple, $\lVert Av-su\rVert$ and $\lVert A^\top u-sv\rVert$ together.
    """

    left: Float[Tensor, "m K"]
    s: Float64[Tensor, " K"]
    right: Float[Tensor, "n K"]
    residual: Float64[Tensor, " K"]


def triples_in(A: Tensor, space: Space, K: int, tolerance: float) -> Triples:
    """The K leading triples of a space.

    Where rounding in A'A would show in their residuals, left vectors are made orthonormal and sent
    through the transpose once more.
    """
    assert space.images is not None
    found = ritz(space, whole=True)
    K = min(K, found.s.numel())
    Q, s = found.combinations[:, :K].T.to(space.vectors), found.s[:K]
    eps = torch.finfo(space.vectors.dtype).eps
    right = product(Q, space.vectors)
    left = product(Q, space.images).double() / s.clamp(min=eps * float(s[0]) + 1e-300)[:, None]
    residual = residuals(space, found, K)
    if float(rounding_of(found, K, space.vectors.dtype)[-1]) > 0.1 * tolerance * float(s[0]):
        U, R = torch.linalg.qr(left.T)
        left = (U * R.diagonal().sign()).T
        ours = left.to(space.vectors)
        back = product(A.T, ours.T).T.double() - s[:, None] * right.double()
        forth = product(A, right.T).T.double() - s[:, None] * left
        residual = torch.hypot(*(torch.linalg.vector_norm(x, dim=1) for x in (back, forth)))
    return Triples(left.to(space.vectors).T, s, right.T, residual)


def rounding_of(found: Ritz, K: int, dtype: torch.dtype) -> Float64[Tensor, " K"]:
    """What rounding in A'A leaves of residuals: of small values more than of large ones."""
    eps = torch.finfo(dtype).eps
    first = float(found.s[0])
    left: Tensor = 4 * eps * first**2 / found.s[:K].clamp(min=eps * first + 1e-300)
    return left


def residuals(space: Space, found: Ritz, K: int) -> Float64[Tensor, " K"]:
    """The norms of A'Av/s - sv for the K leading vectors."""
    Q, s = found.combinations[:, :K].T, found.s[:K, None]
    back = product(Q.to(space.returned), space.returned).double()
    here = product(Q.to(space.vectors), space.vectors).double()
    tiny = torch.finfo(space.vectors.dtype).eps * float(found.s[0]) + 1e-300
    left: Tensor = torch.linalg.vector_norm(back / s.clamp(min=tiny) - s * here, dim=1)
    return left


def may_hide_copies(found: Triples, K: int, block: int, tolerance: float, p: int) -> bool:
    """Whether so many values are equal, as far as they are known, that a block may miss some."""
    if found.s.numel() < block or found.right.shape[1] >= p:
        return False
    s, r = found.s[:K], found.residual[:K]
    if float(s[-1]) <= ROUNDING * torch.finfo(found.left.dtype).eps * float(s[0]):
        return False
    spread = s[: len(s) - block + 1] - s[block - 1 :]
    return bool((spread <= tolerance * s[0] + r[: len(spread)] + r[block - 1 :]).any())


def merged(a: Triples, b: Triples, count: int) -> Triples:
    """The largest of the triples of two spaces, `count` of them."""
    s, order = torch.cat([a.s, b.s]).sort(descending=True, stable=True)
    order = order[:count]
    return Triples(
        torch.cat([a.left, b.left], 1)[:, order],
        s[:count],
        torch.cat([a.right, b.right], 1)[:, order],
        torch.cat([a.residual, b.residual])[order],
    )


def completed(X: Float[Tensor, "n j"], null: Bool[Tensor, " K"]) -> Float[Tensor, "n K"]:
    """The vectors, those of null values replaced by an orthonormal completion of the others."""
    kept = X[:, : int((~null).sum())]
    if kept.shape[1] == null.numel():
        return kept
    generator = torch.Generator().manual_seed(0)
    fill = torch.randn(X.shape[0], null.numel() - kept.shape[1], generator=generator).to(X)
    return torch.cat([kept, torch.linalg.qr(torch.cat([kept, fill], 1)).Q[:, kept.shape[1] :]], 1)
