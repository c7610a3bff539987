"""Effective rank by stochastic Lanczos quadrature, for matrices too large for their spectrum."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg import ranks
from offaxis.linalg.lanczos import Density, Seen, TopSingular, TopValues, top_singular
from offaxis.linalg.products import in_units, largest, product, unit_of
from offaxis.linalg.sums import frobenius

EXACT_BELOW = 512
"""Smaller dimension up to which the whole spectrum is computed instead."""

_RESOLVED = 1e-5  # share of the energy that float32 tells from zero
_DEVIATIONS = 4  # standard errors in the bound
_FEW = 4  # vectors of which a space sees too little
_CONVERGED = 1e-3  # residual of a triple that is counted as it is
_PROBES, _STEPS = 8, 8  # of a space that is made for this alone
_SQUARED = 1e-4  # of the largest square, what float32 does not tell from the others'
_SINGLE = torch.finfo(torch.float32).eps / 4  # of the largest value, what it leaves of each


class Estimate(NamedTuple):
    """A value with its absolute error bound."""

    value: float
    bound: float


def effective_rank(
    D: Float[Tensor, "m n"],
    *,
    seed: int = 0,
    top: TopSingular | TopValues | None = None,
    energy: float | None = None,
) -> Estimate:
    r"""Return $\exp(-\sum_i p_i\log p_i)$, $p = s/\sum s$, estimated from random vectors.

    A vector z on the shorter side sees the spectrum as the Gauss quadrature of its Krylov space,
    and a block sees it as often as it has vectors. The known $\lVert D\rVert_F^2$ serves as
    control variate, and triples already found are counted exactly; where they are so large that the
    others drown in the rounding of their squares, they are taken out of the matrix first. The bound
    is 4 standard errors, those of Gaussian probes of the estimated spectrum, what the last steps of
    the quadrature changed, and what float32 leaves of every value.

    Args:
        D: The matrix; up to a smaller dimension of 512 its spectrum is computed exactly.
        seed: Of the probes, where they are made here.
        top: Singular triples of D, of which those converged to 1e-3 are counted as they are, or its
            values alone; what their space saw is used where it grew from at least 4 vectors.
        energy: The squared Frobenius norm, where it is known.

    Returns:
        The estimate, in [1, p]; 0 with bound 0 for the zero matrix.

    Source:
        Ubaru, Chen & Saad 2017, doi:10.1137/16M1104974; Golub & Meurant 2010, "Matrices, Moments
        and Quadrature", chapter 4 (blocks); Roy & Vetterli 2007 (the effective rank).
    """
    size = largest(D)
    if size == 0:
        return Estimate(0.0, 0.0)
    p = min(D.shape)
    if p <= EXACT_BELOW:
        return _exact(in_units(D, unit_of(size), torch.float32))
    if top is None or top.seen.probes < _FEW:
        steps = _PROBES * _STEPS
        top = top_singular(D, _PROBES, seed=seed + 1, tolerance=0.0, max_steps=steps // 4)
    energy = frobenius(D) ** 2 if energy is None else energy
    found = top.s[:0]
    if isinstance(top, TopSingular):
        found = top.s[top.residual <= _CONVERGED * top.s]
    rest = energy - float(found.square().sum())
    hiding = int((_SQUARED * found.square() > rest / p).sum())
    if not (hiding and isinstance(top, TopSingular)):
        known = rest if rest > _RESOLVED * energy else None
        seen = _beside(top.seen, found.numel(), p - found.numel())
        return _rank_of(_Spectrum(found, seen, p - found.numel(), energy, known))
    unit = unit_of(size)
    R = _without(D, top, hiding, unit)
    seen = top_singular(R, _PROBES, seed=seed + 1, tolerance=0.0, max_steps=2 * _PROBES).seen
    # the directions that were taken away are among those seen, and count for nothing
    beside, leading = _beside(seen, 0, p), found[:hiding] / unit
    return _rank_of(_Spectrum(leading, beside, p, energy / unit**2, frobenius(R) ** 2))


def _without(
    D: Float[Tensor, "m n"], top: TopSingular, count: int, unit: float
) -> Float[Tensor, "m n"]:
    """The matrix, in a unit, less leading triples in whose squares the others would drown."""
    leading = top.left[:, :count] * (top.s[:count] / unit).to(top.left)
    return in_units(D, unit, torch.float32) - product(leading, top.right[:, :count].T)


def _beside(seen: Seen, count: int, free: int) -> Seen:
    """What was seen beside the leading values, as numbers of values: `free` in all."""

    def counted(density: Density) -> Density:
        shares = density.shares[count:]
        return Density(density.values[count:], shares * free / shares.sum().clamp(min=1e-300))

    return Seen(counted(seen.density), counted(seen.coarser), seen.probes)


class _Spectrum(NamedTuple):
    """Leading values, numbers of the others, of the whole and, where it is known, of their part."""

    found: Float64[Tensor, " l"]
    seen: Seen
    free: int
    energy: float
    known: float | None


def _rank_of(spectrum: _Spectrum) -> Estimate:
    """The effective rank with its bound: standard errors, the quadrature's last steps, rounding."""
    found, seen, free, energy, known = spectrum
    unit = math.sqrt(energy)
    share = None if known is None else known / energy
    values = [
        _entropy_rank(found / unit, Density(x / unit, w), share, free, seen.probes)
        for x, w in (seen.density, seen.coarser)
    ]
    (value, deviation), (coarser, _) = values
    p = found.numel() + free
    total = float(found.sum() + seen.density.shares @ seen.density.values)
    largest = float(torch.cat([found, seen.density.values]).max())
    error = _SINGLE * largest / total  # of a value's share of the sum
    moved = p * error * (1 - math.log(error) + math.log(max(value, 1.0)))
    bound = value * (math.expm1(_DEVIATIONS * deviation) + moved) + 2 * abs(value - coarser)
    return Estimate(min(max(value, 1.0), p), bound)


def _exact(A: Float[Tensor, "m n"]) -> Estimate:
    A = A if A.shape[0] <= A.shape[1] else A.T
    A = A.double()
    s = torch.linalg.eigvalsh(product(A, A.T)).flip(0).clamp(min=0).sqrt()
    error = s.numel() * torch.finfo(torch.float64).eps ** 0.5  # of a value, relative to the first
    share = error * s.numel() * float(s[0] / s.sum())
    value = ranks.effective_rank(s)
    return Estimate(value, min(1.0, 2 * share * (1 - math.log(error))) * value)


def _entropy_rank(
    found: Tensor, density: Density, energy: float | None, free: int, probes: int
) -> tuple[float, float]:
    """The effective rank and the standard error of its logarithm.

    `energy` is that of the density, where it is known to more than rounding.
    """
    x, w = density
    x_log = torch.special.xlogy(x, x)
    total = float(found.sum() + w @ x)
    log_sum = float(torch.special.xlogy(found, found).sum() + w @ x_log)
    entropy = math.log(total) - log_sum / total
    # the first variation of the entropy with the spectrum, less its regression on the energy
    slope = x * (1 + log_sum / total) / total - x_log / total
    slope = slope - w @ slope / max(free, 1)
    square = x.square() - w @ x.square() / max(free, 1)
    variance = float(w @ square.square())
    control = 0.0
    if variance > 0 and energy is not None:
        control = float(w @ (slope * square)) / variance
        entropy -= control * (float(w @ x.square()) - energy)
    left = slope - control * square
    return math.exp(entropy), math.sqrt(2 * float(w @ left.square()) / probes)
