"""The anchor's singular basis: computed once a matrix, it serves every checkpoint."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from offaxis.linalg.products import in_units, largest, product, unit_of
from offaxis.linalg.tridiagonal import all_vectors_

_EPS = torch.finfo(torch.float64).eps
_WELL_RESOLVED = 1e-4  # of s_1; below it the Gram's vectors are no longer orthonormal to 1e-8
_NULL = 1e-12  # of s_1; below it a right vector is completed, not computed
_BLOCK = 1024  # rows multiplied at once; another number rounds otherwise
_SWAPPED = 256
_SKETCHES = 32


class Basis(NamedTuple):
    r"""The thin SVD of an anchor, $W = U\,\mathrm{diag}(s)\,V^\top$.

    U and V are held in float32: their rounding enters what is measured relative to the update, not
    to the anchor. `U_top` and `V_top` are the leading columns in float64. `s_bound` is the absolute
    error of each value; `outer` holds Gaussian vectors orthogonal to those of the longer side.
    """

    U: Float32[Tensor, "m p"]
    s: Float64[Tensor, " p"]
    V: Float32[Tensor, "n p"]
    s_bound: Float64[Tensor, " p"]
    U_top: Float64[Tensor, "m k"]
    V_top: Float64[Tensor, "n k"]
    outer: Float32[Tensor, "q g"]

    @property
    def is_wide(self) -> bool:
        """Whether the matrix has at most as many rows as columns."""
        return self.U.shape[0] <= self.V.shape[0]

    @property
    def short(self) -> Tensor:
        """The vectors of the shorter side, p x p."""
        return self.U if self.is_wide else self.V

    @property
    def long(self) -> Tensor:
        """The vectors of the longer side, q x p."""
        return self.V if self.is_wide else self.U


def singular_basis(W: Float[Tensor, "m n"], *, k_top: int = 0) -> Basis:
    r"""Return the singular basis of a matrix from the float64 Gram of its shorter side.

    $\sigma^2, Q = \mathrm{eigh}(WW^\top)$ and $W^\top Q/\sigma$; directions below 1e-4 of the
    largest value are decomposed once more by themselves, and those below 1e-12 completed to an
    orthonormal basis. No float64 copy of W is made: it is read in blocks.

    Args:
        W: The matrix, in any floating dtype.
        k_top: How many leading vectors to keep in float64 too.

    Returns:
        The basis. Values above 1e-4 of the largest are within `s_bound`, about
        $p\epsilon\sigma_1^2/\sigma_i$. A zero matrix has s = 0 and an arbitrary orthonormal basis.
    """
    A = W if W.shape[0] <= W.shape[1] else W.T
    p, q = A.shape
    unit = unit_of(largest(A))
    values, Q = _descending_(_gram(A, unit))
    s = values.clamp(min=0).sqrt()
    kept = int((s > _WELL_RESOLVED * s[0]).sum())
    R = A.new_empty(q, p, dtype=torch.float64 if kept < p else torch.float32)
    top = A.new_empty(q, min(k_top, p), dtype=torch.float64)
    for start in range(0, q, _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = product(in_units(A[:, rows].double(), unit, torch.float64).T, Q)
        block[:, :kept] /= s[:kept]
        R[rows].copy_(block)
        top[rows] = block[:, : top.shape[1]]
    bound = 8 * p * _EPS * s[0] ** 2 / s.clamp(min=_WELL_RESOLVED * float(s[0]))
    if kept < p:
        s = _resolve_small_(Q, s, R, kept)
        bound[kept:] = 8 * p * _EPS * s[0] / _WELL_RESOLVED
        top = R[:, : top.shape[1]].clone()
    long = R.float()
    del R
    order = torch.preserve_format if kept == p else torch.contiguous_format
    short_top = Q[:, : top.shape[1]].clone(memory_format=order)
    short = Q.to(torch.float32, memory_format=order)
    del Q
    s, bound = s * unit, bound.nan_to_num() * unit
    outer = _outer(long)
    if W.shape[0] <= W.shape[1]:
        return Basis(short, s, long, bound, short_top, top, outer)
    return Basis(long, s, short, bound, top, short_top, outer)


def _descending_(G: Float64[Tensor, "p p"]) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of a symmetric matrix, in its own memory on the CPU."""
    values, Q = all_vectors_(G)
    if G.device.type != "cpu":
        return values.flip(0), Q.flip(1)
    half = G.shape[0] // 2
    for start in range(0, half, _SWAPPED):
        stop = min(start + _SWAPPED, half)
        first, last = G[start:stop], G[G.shape[0] - stop : G.shape[0] - start]
        held = first.flip(0)
        first.copy_(last.flip(0))
        last.copy_(held)
    return values.flip(0), G.mT


def _outer(long: Float32[Tensor, "q p"]) -> Float32[Tensor, "q g"]:
    """Gaussian vectors orthogonal to the columns; none where these span everything."""
    q, p = long.shape
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(q, _SKETCHES if p < q else 0, generator=generator).to(long.device)
    for _ in range(2 if p < q else 0):
        G = G - product(long, product(long.T, G))
    return G


def _gram(A: Tensor, unit: float) -> Float64[Tensor, "p p"]:
    """AA' in float64, read in blocks of columns."""
    G = A.new_zeros(A.shape[0], A.shape[0], dtype=torch.float64)
    for start in range(0, A.shape[1], _BLOCK):
        block = in_units(A[:, start : start + _BLOCK].double(), unit, torch.float64)
        G += product(block, block.T)
    return G


def _resolve_small_(
    Q: Float64[Tensor, "p p"], s: Float64[Tensor, " p"], R: Float64[Tensor, "q p"], kept: int
) -> Float64[Tensor, " p"]:
    """Decompose in place what the Gram does not resolve, orthogonally to what it does."""
    large, rest = R[:, :kept], R[:, kept:]
    for _ in range(2):
        rest = rest - product(large, product(large.T, rest))
    left, values, right = torch.linalg.svd(rest, full_matrices=False)
    Q[:, kept:] = product(Q[:, kept:], right.T.contiguous())
    R[:, kept:] = left
    known = kept + int((values > _NULL * s[0]).sum())
    if known < R.shape[1]:
        generator = torch.Generator().manual_seed(0)
        fill = torch.randn(R.shape[0], R.shape[1] - known, generator=generator, dtype=R.dtype)
        fill = fill.to(R.device)
        for _ in range(2):
            fill = fill - product(R[:, :known], product(R[:, :known].T, fill))
            fill = torch.linalg.qr(fill).Q
        R[:, known:] = fill
    return torch.cat([s[:kept], values])
