"""Effective rank by stochastic Lanczos quadrature, for matrices too large for their spectrum."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg import ranks
from offaxis.linalg.lanczos import TopSingular, bidiagonalise
from offaxis.linalg.products import in_units, largest, product, unit_of

EXACT_BELOW = 512
"""Smaller dimension up to which the whole spectrum is computed instead."""

_RESOLVED = 1e-5  # share of the energy that float32 tells from zero
_DEVIATIONS = 4  # standard errors in the bound


class Estimate(NamedTuple):
    """A value with its absolute error bound."""

    value: float
    bound: float


class _Density(NamedTuple):
    """A discrete approximation of the spectrum: singular values and how many of each."""

    values: Float64[Tensor, " j"]
    counts: Float64[Tensor, " j"]


def effective_rank(
    D: Float[Tensor, "m n"],
    *,
    seed: int = 0,
    probes: int = 2,
    steps: int = 16,
    top: TopSingular | None = None,
) -> Estimate:
    r"""Return $\exp(-\sum_i p_i\log p_i)$, $p = s/\sum s$, estimated from random vectors.

    A vector z on the shorter side sees the spectrum as the Gauss quadrature of its
    bidiagonalisation. The known $\lVert D\rVert_F^2$ serves as control variate, and triples already
    found are taken out and counted exactly. The bound is 4 standard errors, those of a Gaussian
    probe of the estimated spectrum, and what the last steps of the quadrature changed.

    Args:
        D: The matrix; up to a smaller dimension of 512 its spectrum is computed exactly.
        seed: Of the probes.
        probes: How many.
        steps: Of each bidiagonalisation.
        top: Singular triples of D, of which those converged to 1e-3 are used.

    Returns:
        The estimate, in [1, p]; 0 with bound 0 for the zero matrix.

    Source:
        Ubaru, Chen & Saad 2017, doi:10.1137/16M1104974; Roy & Vetterli 2007 (the effective rank).
    """
    size = largest(D)
    if size == 0:
        return Estimate(0.0, 0.0)
    unit = unit_of(size)
    A = in_units(D, unit, torch.float32)
    p = min(A.shape)
    if p <= EXACT_BELOW:
        return _exact(A)
    A = A.T if A.shape[0] <= A.shape[1] else A
    found, locked = _known(top, unit, A, D.shape[0] <= D.shape[1])
    energy = float(torch.linalg.vector_norm(A)) ** 2
    rest, free = energy - float(found.square().sum()), p - found.numel()
    known = rest if rest > _RESOLVED * energy else None
    chains = [bidiagonalise(A, seed + 1 + i, max_steps=steps, locked=locked) for i in range(probes)]
    values = []
    for fewer in (0, max(2, steps // 4)):
        nodes = [_nodes(*(chain.diagonal, chain.above), fewer=fewer) for chain in chains]
        density = _Density(
            torch.cat([x for x, _ in nodes]), torch.cat([w for _, w in nodes]) * free / probes
        )
        values.append(_entropy_rank(found, density, known, free, probes))
    (value, deviation), (coarser, _) = values
    bound = value * math.expm1(_DEVIATIONS * deviation) + 2 * abs(value - coarser)
    return Estimate(min(max(value, 1.0), p), bound)


def _exact(A: Float[Tensor, "m n"]) -> Estimate:
    A = A if A.shape[0] <= A.shape[1] else A.T
    A = A.double()
    s = torch.linalg.eigvalsh(product(A, A.T)).flip(0).clamp(min=0).sqrt()
    error = s.numel() * torch.finfo(torch.float64).eps ** 0.5  # of a value, relative to the first
    share = error * s.numel() * float(s[0] / s.sum())
    value = ranks.effective_rank(s)
    return Estimate(value, min(1.0, 2 * share * (1 - math.log(error))) * value)


def _known(
    top: TopSingular | None, unit: float, A: Tensor, is_wide: bool
) -> tuple[Float64[Tensor, " l"], Float[Tensor, "p l"]]:
    if top is None:
        return A.new_zeros(0, dtype=torch.float64), A.new_zeros(A.shape[1], 0)
    kept = top.residual <= 1e-3 * top.s
    vectors = (top.left if is_wide else top.right)[:, kept]
    return (top.s[kept] / unit).to(A.device), vectors.to(A)


def _nodes(diagonal: list[float], above: list[float], *, fewer: int) -> tuple[Tensor, Tensor]:
    """Gauss nodes and weights of a bidiagonalisation, or of its first part."""
    size = max(1, len(diagonal) - fewer)
    B = torch.diag(torch.tensor(diagonal[:size], dtype=torch.float64))
    B += torch.diag(torch.tensor(above[: size - 1], dtype=torch.float64), 1)
    _, s, Qh = torch.linalg.svd(B)
    return s, Qh[:, 0].square()


def _entropy_rank(
    found: Tensor, density: _Density, energy: float | None, free: int, probes: int
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
    slope = slope - w @ slope / free
    square = x.square() - w @ x.square() / free
    variance = float(w @ square.square())
    control = 0.0
    if variance > 0 and energy is not None:
        control = float(w @ (slope * square)) / variance
        entropy -= control * (float(w @ x.square()) - energy)
    left = slope - control * square
    return math.exp(entropy), math.sqrt(2 * float(w @ left.square()) / probes)
