"""Singular values and leading singular vectors, right to stated bounds, from the Gram matrix."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg.gram import accumulate, blocks, gram, scale_exponent
from offaxis.linalg.orthonormal import orthonormalised
from offaxis.linalg.products import product
from offaxis.linalg.tridiagonal import Eigensystem, eigensystem, eigenvalues

EPS = torch.finfo(torch.float64).eps
RESOLVED = 1e-7
"""Below this share of the largest, a singular value counts as not resolved."""

_SQUARED = 2e-6  # a spectrum that reaches below it is not left to the Gram matrix alone

_LEADING = 1e-3  # above it, squaring costs at most half of the digits
_FLOOR = 1e-6  # radians; a subspace that the Gram resolves less well is taken by SVD if that helps

Parts = Callable[[], Iterator[tuple[slice, Tensor]]]


class Spectrum(NamedTuple):
    """Singular values, descending, each with a bound of its absolute error.

    `resolved` counts the values that lie above 1e-7 of the largest one.
    """

    s: Tensor
    bound: Tensor
    resolved: int


class TopFactors(NamedTuple):
    """Leading triples: left (m x k) and right (n x k) orthonormal columns, s descending."""

    left: Tensor
    s: Tensor
    right: Tensor


def spectrum(W: Float[Tensor, "m n"]) -> Spectrum:
    r"""Return all singular values in float64 from the Gram matrix of the shorter side.

    With $\delta=8\sqrt{p+8}\,\epsilon\,s_1^2$ the error of an eigenvalue of the Gram matrix, a
    value is right to $\delta/(s+\sqrt{s^2-\delta})$: rounding at the top, $\sqrt\delta$ at the
    bottom. Where values fall below 2e-6 of the largest, those below 1e-3 are found again: by
    LAPACK's SVD of their own subspace if they are few, from what the leading subspaces leave of the
    matrix if those are few, by LAPACK's SVD of the matrix otherwise; then right to about
    max(m, n) eps s_1.

    Peak extra memory: p^2 + 1300 p float64 numbers; where it comes to LAPACK, three copies of the
    matrix in float64.

    Source:
        The growth of rounding errors as the root of the dimension: Higham & Mary 2019,
        doi:10.1137/18M1226312. Weyl's inequality does the rest.
    """
    G, exponent = gram(W)
    values = eigenvalues(G)
    if _is_resolved(values):
        return _unscaled(*_from_eigenvalues(values), exponent)
    return factorise(W).spectrum


def factorise(W: Float[Tensor, "m n"]) -> "SymmetricFactors":
    """Return the spectrum, and leading vectors on demand, from one tridiagonalisation.

    The values are those of `spectrum` to its bounds. Peak extra memory: p^2 + 1300 p float64
    numbers, of which p^2 stay until the result is dropped, and at most 5 (m + n) k while k vectors
    are found, of which (m + n) k are returned.
    """
    exponent = scale_exponent(W)
    parts = partial(blocks, W, exponent)
    system = eigensystem(accumulate((block for _, block in parts()), min(W.shape), W.device))
    s, bound = _values(parts, system, max(W.shape), None)
    return SymmetricFactors(W, system, _unscaled(s, bound, exponent), exponent)


class SymmetricFactors:
    """A matrix's spectrum and its leading singular vectors; it refers to the matrix."""

    def __init__(
        self, W: Float[Tensor, "m n"], system: Eigensystem, spectrum: Spectrum, exponent: int
    ) -> None:
        self._W, self._system, self._exponent = W, system, exponent
        self.spectrum = spectrum

    def top(self, k: int) -> TopFactors:
        """Return the k leading triples, 1 <= k <= p, to `subspace_floor(k)`.

        Vectors of values that are zero within their bound are an arbitrary orthonormal completion.
        """
        W, s = self._W, self.spectrum.s[:k]
        if self._needs_svd(k):
            U, _, Vh = torch.linalg.svd(W.double() * 2.0**-self._exponent, full_matrices=False)
            return TopFactors(U[:, :k], s, Vh[:k].T)
        near = self._system.top(k)
        far = _other_side(partial(blocks, W, self._exponent), near, max(W.shape))
        wide = W.shape[0] <= W.shape[1]
        return TopFactors(near, s, far) if wide else TopFactors(far, s, near)

    def subspace_floor(self, k: int) -> float:
        r"""Return the resolution of the top-k singular subspaces in radians, in [0, pi/2].

        Both are right to $\arcsin\frac{\delta}{g-\delta}$ with $g=s_k^2-s_{k+1}^2$, or with the
        gap of the values where LAPACK's SVD is used instead (where the Gram matrix resolves the
        subspace less well than 1e-6 and the SVD better). 0 where they are the whole spaces.

        Source:
            Davis & Kahan 1970, doi:10.1137/0707001; Wedin 1972, doi:10.1007/BF01932678.
        """
        squared, direct = self._floors(k)
        return direct if self._needs_svd(k) else squared

    def _needs_svd(self, k: int) -> bool:
        squared, direct = self._floors(k)
        return direct <= _FLOOR < squared

    def _floors(self, k: int) -> tuple[float, float]:
        p, q = sorted(self._W.shape)
        s = self.spectrum.s
        if s[0] == 0 or k == p == q:
            return (0.0, 0.0) if k == p == q else (math.pi / 2, math.pi / 2)
        here = float(s[k - 1] / s[0])
        after = float(s[k] / s[0]) if k < p else 0.0
        delta = _rounding(p)
        return _angle(delta, (here - after) * (here + after)), _angle(delta, here - after)


def subspace_floor(s: Float64[Tensor, " p"], k: int, shape: tuple[int, int]) -> float:
    """Return the resolution in radians of top-k subspaces that a Gram matrix gave, in [0, pi/2].

    As `SymmetricFactors.subspace_floor`, for vectors that were taken from all of its own.
    """
    p, q = sorted(shape)
    if k == p == q:
        return 0.0
    if s[0] == 0:
        return math.pi / 2
    here = float(s[k - 1] / s[0])
    after = float(s[k] / s[0]) if k < p else 0.0
    return _angle(_rounding(p), (here - after) * (here + after))


def _rounding(p: int) -> float:
    """Error of an eigenvalue of the Gram matrix, in units of the largest."""
    return 8 * math.sqrt(p + 8) * EPS


def _angle(error: float, gap: float) -> float:
    return math.asin(error / (gap - error)) if gap > 2 * error else math.pi / 2


def _is_resolved(values: Float64[Tensor, " p"]) -> bool:
    least = max(_SQUARED**2, _rounding(values.numel()))
    return bool(values[-1] > least * values[0]) or bool(values[0] == 0)


def _from_eigenvalues(
    values: Float64[Tensor, " p"],
) -> tuple[Float64[Tensor, " p"], Float64[Tensor, " p"]]:
    s = values.clamp(min=0).sqrt()
    return s, _root_bound(s, _rounding(s.numel()) * s[0].square())


def _root_bound(s: Float64[Tensor, " p"], delta: Tensor) -> Float64[Tensor, " p"]:
    """Bound the error of s where that of its square is at most delta."""
    sure = (s.square() - delta).clamp(min=0).sqrt()
    return torch.where(sure > 0, delta / (s + sure).clamp(min=1e-300), delta.sqrt())


def _values(
    parts: Parts, system: Eigensystem, q: int, largest: Tensor | None
) -> tuple[Float64[Tensor, " p"], Float64[Tensor, " p"]]:
    """Singular values and bounds; what the Gram matrix cannot resolve is found again."""
    s, bound = _from_eigenvalues(system.values)
    if _is_resolved(system.values):
        return s, bound
    largest = s[0] if largest is None else largest
    p, r = s.numel(), int((s >= _LEADING * s[0]).sum())
    least = q * EPS * largest
    if 4 * (p - r) <= p:
        return _tail_found_again(parts, system, s, bound, least)
    if 4 * r > p:
        s = torch.linalg.svdvals(torch.cat([block for _, block in parts()], 1))
        return s, torch.full_like(s, float(least))
    near = system.top(r)
    rest = partial(_remainder, parts, near, _other_side(parts, near, q))
    G = accumulate((block for _, block in rest()), p, s.device)
    size = G.diagonal().sum().sqrt()
    if size <= least:
        tail, error = torch.zeros_like(s), least.expand(p)
    else:
        tail, error = _values(rest, eigensystem(G), q, largest)
    return torch.cat([s[:r], tail[: p - r]]), torch.cat([bound[:r], error[: p - r] + least])


def _tail_found_again(
    parts: Parts, system: Eigensystem, s: Tensor, bound: Tensor, least: Tensor
) -> tuple[Float64[Tensor, " p"], Float64[Tensor, " p"]]:
    """The few small values by LAPACK's SVD of what their own subspace holds of the matrix.

    They are Ritz values: their squares err by the square of the subspace's residual over the gap to
    the values left out (Parlett 1998, doi:10.1137/1.9781611971163, section 11.7).
    """
    r = int((s >= _LEADING * s[0]).sum())
    own = system.bottom(s.numel() - r).T
    tail = torch.linalg.svdvals(torch.cat([product(own, block) for _, block in parts()], 1))
    residual = _rounding(s.numel()) * s[0].square()
    gap = (s[r - 1].square() - tail.square()).clamp(min=residual)
    error = _root_bound(tail, residual.square() / gap) + least
    return torch.cat([s[:r], tail]), torch.cat([bound[:r], error])


def _remainder(
    parts: Parts, U: Float64[Tensor, "p r"], V: Float64[Tensor, "q r"]
) -> Iterator[tuple[slice, Tensor]]:
    r"""Yield $(I-UU^\top)A(I-VV^\top)$: projected on both sides, errors of U enter squared."""
    images = sum(block @ V[part] for part, block in parts())
    leak = images - U @ (U.T @ images)
    for part, block in parts():
        yield part, block - U @ (U.T @ block) - leak @ V[part].T


def _other_side(parts: Parts, near: Float64[Tensor, "p k"], q: int) -> Float64[Tensor, "q k"]:
    """The longer side's vectors of the given ones, orthonormal, signs kept."""
    far = near.new_empty(q, near.shape[1])
    for part, block in parts():
        far[part] = product(block.T, near)
    far /= far.norm(dim=0).clamp(min=torch.finfo(far.dtype).tiny)
    return orthonormalised(far)


def _unscaled(s: Tensor, bound: Tensor, exponent: int) -> Spectrum:
    resolved = int((s > RESOLVED * s[0]).sum())
    scale = 2.0**exponent
    return Spectrum(s * scale, bound * scale, resolved)
