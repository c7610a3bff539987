"""An update in the anchor's singular basis: P = U' dW V, or the part of it that is asked for."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from offaxis.linalg.basis import Basis
from offaxis.linalg.coarse import COARSE, coarse_product
from offaxis.linalg.products import in_units, largest, product, unit_of

BUFFER = 32
"""Directions kept exactly beyond the containing subspace, to keep its boundary well separated."""

_SAMPLE = 128
_SMALL = 512  # up to it, coarse products save nothing
_SINGLE = torch.finfo(torch.float32).eps
_ROWS = 256
_LINES = 128


class Projection(NamedTuple):
    r"""What an update dW does to the singular directions of its anchor.

    In units of `unit`, and turned so that the anchor has no more rows than columns (`is_wide` tells
    whether it was so): with $K = U^\top dW$ and $P = KV$, `K_top` holds the first t rows of K,
    `P_top` the first t rows of P and `P_left` its first t columns; `rest` holds what is
    beyond where the whole was asked for, by coarse products.

    Attributes:
        k: The dimension of the principal subspaces.
        containing: Dimension of the slightly larger subspace, k + max(1, k // 8), at most p.
        diagonal: diag(P); `above` and `below` are the diagonals beside it.
        rounding: Relative rounding of the leading rows and columns, in what they turn: of draws,
            whose entries are alike, it adds in squares.
        sample: Every so-many-th direction beyond t, with its row and its column of P.
        outside: Squared norms of the rows of $K - PV^\top$, estimated from a sketch.
    """

    D: Float[Tensor, "p q"]
    short: Float32[Tensor, "p p"]
    long: Float32[Tensor, "q p"]
    s: Float64[Tensor, " p"]
    unit: float
    is_wide: bool
    is_zero: bool
    k: int
    containing: int
    K_top: Float32[Tensor, "t q"]
    P_top: Float32[Tensor, "t p"]
    P_left: Float32[Tensor, "p t"]
    rest: Float32[Tensor, "u u"] | None
    diagonal: Float64[Tensor, " p"]
    above: Float64[Tensor, " p_1"]
    below: Float64[Tensor, " p_1"]
    rounding: float
    sample: Int64[Tensor, " j"]
    sample_rows: Float32[Tensor, "j p"]
    sample_columns: Float32[Tensor, "p j"]
    outside: Float64[Tensor, " p"]

    @property
    def t(self) -> int:
        """How many leading directions are known to float32."""
        return self.K_top.shape[0]


def project(basis: Basis, D: Float[Tensor, "m n"], k: int, *, whole: bool = True) -> Projection:
    r"""Return the update in the anchor's singular basis.

    Two products of $p^2q$ with the whole, one without (for the draws of a null). Neither K nor a
    converted copy of the update is ever whole.

    Args:
        basis: The anchor's.
        D: The update, current minus anchor, in float32 or float64.
        k: Dimension of the principal subspaces, in [1, p].
        whole: Whether the energy inside the principal blocks will be asked for. Without it, as for
            the draws of a null, the leading rows and columns of large matrices are rounded too, for
            an update whose entries in the basis are alike in size.
    """
    unit = unit_of(float(basis.s[0]))
    A = in_units(D if basis.is_wide else D.T, unit, torch.float32)
    short, long, p = basis.short, basis.long, basis.s.numel()
    containing = min(p, k + max(1, k // 8))
    t = min(p, containing + BUFFER)
    precise = whole or p <= _SMALL
    leading = product if precise else coarse_product
    sample = torch.arange(t, p, max(1, -(-(p - t) // _SAMPLE)), device=A.device)
    drawn = sample - t
    asked = short[:, :t] if whole else torch.cat([short[:, :t], short[:, sample]], 1)
    K = leading(asked.T, A)
    P = leading(K, long)
    K_top, P_top = K[:t], P[:t]
    if precise:
        M_top, M = product(A, long[:, :t]), coarse_product(A, long[:, t:])
    else:
        M_top, M = (M.contiguous() for M in coarse_product(A, long).tensor_split([t], 1))
    P_left = torch.cat([P_top[:, :t], leading(short[:, t:].T, M_top)])
    if whole:
        rest = coarse_product(short[:, t:].T, M)
        rows = torch.cat([P_left[sample], rest[drawn]], 1)
        columns = torch.cat([P_top[:, sample], rest[:, drawn]])
        diagonals = [rest.diagonal(offset) for offset in (0, 1, -1)]
    else:
        rest = None
        rows = P[t:]
        columns = product(short.T, M[:, drawn])
        diagonals = _diagonals(short[:, t:], M)
    return Projection(
        D=A,
        short=short,
        long=long,
        s=basis.s / unit,
        unit=unit,
        is_wide=basis.is_wide,
        is_zero=largest(D) == 0,
        k=k,
        containing=containing,
        K_top=K_top,
        P_top=P_top,
        P_left=P_left,
        rest=rest,
        diagonal=torch.cat([P_top.diagonal(), diagonals[0]]).double(),
        above=torch.cat([P_top.diagonal(1)[:t], diagonals[1]]).double(),
        below=torch.cat([P_left.diagonal(-1)[:t], diagonals[2]]).double(),
        rounding=_SINGLE if precise else COARSE**2,
        sample=sample,
        sample_rows=rows,
        sample_columns=columns,
        outside=product(short.T, product(A, basis.outer)).double().square().sum(1)
        / max(1, basis.outer.shape[1]),
    )


def _diagonals(U: Float32[Tensor, "p u"], M: Float32[Tensor, "p u"]) -> list[Tensor]:
    """The diagonal of U'M, the one above and the one below, from rows that stay in cache."""
    sums = [M.new_zeros(max(0, M.shape[1] - beside)) for beside in (0, 1, 1)]
    for a, b in zip(U.split(_LINES), M.split(_LINES), strict=True):
        pairs = ((a, b), (a[:, :-1], b[:, 1:]), (a[:, 1:], b[:, :-1]))
        for total, (left, right) in zip(sums, pairs, strict=True):
            total.add_((left * right).sum(0))
    return sums


def energy_inside(projection: Projection) -> Float64[Tensor, " p"]:
    r"""Return $\lVert U_k^\top dW\,V_k\rVert_F^2$ for every k from 1 to p.

    To be divided by $\lVert dW\rVert_F^2$; an update independent of the anchor has $k^2/(pq)$
    inside. Relative error about 2e-3 of the update's squared norm beyond the leading block.

    Raises:
        ValueError: If the projection is not whole.
    """
    if projection.rest is None:
        raise ValueError("energy_inside needs a projection made with whole=True")
    rows = partial(_rows, projection)
    return _accumulated(rows, projection.s.numel()) * projection.unit**2


def coarse_energy_inside(basis: Basis, D: Float[Tensor, "m n"]) -> Float64[Tensor, " p"]:
    """Return `energy_inside` from two coarse products: relative error 2e-3 of the squared norm."""
    unit = unit_of(float(basis.s[0]))
    A = in_units(D if basis.is_wide else D.T, unit, torch.float32)
    P = coarse_product(basis.short.T, coarse_product(A, basis.long))
    return _accumulated(lambda start, stop: P[start:stop], len(P)) * unit**2


def _accumulated(
    rows: Callable[[int, int], Float32[Tensor, "r p"]], p: int
) -> Float64[Tensor, " p"]:
    """The sum of squares of every leading square block, from rows on demand."""
    added = rows(0, 0).new_zeros(p, dtype=torch.float64)
    for start in range(0, p, _ROWS):
        stop = min(start + _ROWS, p)
        squares = rows(start, stop).square()
        corner = squares[:, start:stop]
        added[start:stop] += squares[:, :start].sum(1).double()
        added[start:stop] += corner.tril().sum(1).double() + corner.triu(1).sum(0).double()
        added[stop:] += squares[:, stop:].sum(0).double()
    return added.cumsum(0)


def _rows(projection: Projection, start: int, stop: int) -> Float32[Tensor, "r p"]:
    """Some rows of the whole P."""
    t = projection.t
    leading = projection.P_top[start : min(stop, t)]
    if stop <= t or projection.rest is None:
        return leading
    first = max(start, t)
    below = torch.cat([projection.P_left[first:stop], projection.rest[first - t : stop - t]], 1)
    return torch.cat([leading, below]) if start < t else below
