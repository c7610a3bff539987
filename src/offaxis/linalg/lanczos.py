"""The largest singular values and vectors of a matrix, from Krylov spaces."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg.krylov import Operator, Ritz, Space, grow, of_gram, of_matrix, refined, ritz
from offaxis.linalg.products import in_units, largest, product, unit_of
from offaxis.linalg.triples import (
    ROUNDING,
    Triples,
    completed,
    may_hide_copies,
    merged,
    residuals,
    rounding_of,
    triples_in,
)

_BLOCK = 16  # vectors that are multiplied for the price of a few
_WIDER = 4  # how much larger a space of blocks may grow than one of vectors
_FIRST_CHECK, _CHECK_EVERY = 6, 3  # steps of a block
_COPY_STEPS = 8  # enough to see a value equal to one that was found
_UNTOLD = 2.0**-10  # of the largest value, what a Gram matrix in float32 does not tell from 0


class Density(NamedTuple):
    """What the random start of a space saw of the spectrum: its values, and the share of each."""

    values: Float64[Tensor, " j"]
    shares: Float64[Tensor, " j"]


class Seen(NamedTuple):
    """The density that a space saw, that of its first part, and from how many random vectors."""

    density: Density
    coarser: Density
    probes: int


class TopSingular(NamedTuple):
    r"""The K largest singular triples that were found, values descending.

    Attributes:
        left: Left vectors, as columns.
        s: Their values, Rayleigh-Ritz approximations from below.
        right: Right vectors, as columns.
        residual: Of each triple, $\lVert Av-su\rVert$ and $\lVert A^\top u-sv\rVert$ together.
        bound: Absolute error of each value.
        steps: Products with A and its transpose that were taken, of a vector or a block.
        seen: Of the whole spectrum.
    """

    left: Float[Tensor, "m K"]
    s: Float64[Tensor, " K"]
    right: Float[Tensor, "n K"]
    residual: Float64[Tensor, " K"]
    bound: Float64[Tensor, " K"]
    steps: int
    seen: Seen


class TopValues(NamedTuple):
    """The K largest singular values, with their bounds and what was seen of the others."""

    s: Float64[Tensor, " K"]
    bound: Float64[Tensor, " K"]
    seen: Seen


def top_singular(
    D: Float[Tensor, "m n"],
    K: int = 1,
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 64,
    double: bool = False,
    block: int = _BLOCK,
) -> TopSingular:
    r"""Return the K largest singular triples of a matrix.

    The Krylov space of A'A on the shorter side, grown by blocks of min(K, `block`) vectors from a
    random start; its vectors are kept orthonormal, and values are taken from their images under
    A. Each value is never above the true one but for rounding. Its error is at most its residual
    r, and $r^2/2g$ (Kato-Temple) with g the gap to the next value found. A block sees as many
    copies of a value as it has vectors; where so many are found, a second start looks for more.

    Args:
        D: The matrix.
        K: How many triples; at most min(m, n) are returned.
        seed: Of the start vectors.
        tolerance: Residual, as a share of the largest value, at which to stop.
        max_steps: Most vectors of the space of one start; four times as many where it grows by
            blocks. What was reached is in `residual`.
        double: Work in float64 instead of float32.
        block: Vectors that are multiplied at once: fewer reach further in a space of a given size.

    Returns:
        The triples. The vectors of a value 0 are arbitrary.

    Source:
        Golub & Kahan 1965, doi:10.1137/0702016; Golub & Underwood 1977 (blocks); Parlett 1998,
        "The Symmetric Eigenvalue Problem", sections 11.5 and 13.10.
    """
    dtype = torch.float64 if double else torch.float32
    unit = unit_of(largest(D))
    is_wide = D.shape[0] < D.shape[1]
    A = in_units(D.T if is_wide else D, unit, dtype)
    K = min(K, *D.shape)
    wanted, block = min(K + 1, *D.shape), min(K, block)  # one more, for the last one's gap
    most = max_steps if block == 1 else _WIDER * max(max_steps, K)
    operator = of_matrix(A)
    space, steps = _grown(operator, A, block, seed, K=K, tolerance=tolerance, most=most)
    found = triples_in(A, space, wanted, tolerance)
    while K > 1 and may_hide_copies(found, K, block, tolerance, min(A.shape)):
        more, taken = _grown(
            operator,
            A,
            block,
            seed + steps,
            K=K,
            tolerance=tolerance,
            most=_COPY_STEPS * block,
            locked=found.right.T,
        )
        steps += taken
        others = triples_in(A, more, wanted, tolerance)
        known = float(found.s[K - 1] + found.residual[K - 1] + tolerance * found.s[0])
        if float(others.s[0]) <= known:
            break
        found = merged(found, others, found.s.numel() + block)
    top = _bounded(found, K, unit, steps, _seen(space, block, unit))
    return top._replace(left=top.right, right=top.left) if is_wide else top


def top_values(
    D: Float[Tensor, "m n"], K: int, *, seed: int = 0, tolerance: float = 0.02, steps: int = 24
) -> TopValues:
    """Return the K largest singular values alone, to what a null needs of them.

    As `top_singular`, by way of the Gram matrix where the shorter side is so short that many
    products with it are cheaper than few with the matrix.

    Args:
        D: The matrix.
        K: How many values; at most min(m, n) are returned.
        seed: Of the start vectors.
        tolerance: Residual, as a share of the largest value, at which to stop.
        steps: Products with A'A at most, of a block of 16 vectors.
    """
    unit = unit_of(largest(D))
    is_wide = D.shape[0] < D.shape[1]
    A = in_units(D.T if is_wide else D, unit, torch.float32)
    K, block = min(K, *D.shape), min(_BLOCK, *D.shape)
    short = A.shape[1] <= _GRAM and 2 * A.shape[1] <= A.shape[0]
    operator = of_gram(product(A.T, A)) if short else of_matrix(A)
    space, _ = _grown(operator, A, block, seed, K=K, tolerance=tolerance, most=steps * block)
    found = ritz(space)
    s, residual = found.s[:K], residuals(space, found, K)
    bound = residual + ROUNDING * torch.finfo(torch.float32).eps * s[0]
    density = _density(space, found, unit)
    return TopValues(s * unit, bound * unit, Seen(density, density, space.first))


_GRAM = 1536
"""Shorter side up to which a Gram matrix is quicker than ten products of blocks."""


def _grown(
    operator: Operator,
    A: Tensor,
    block: int,
    seed: int,
    *,
    K: int,
    tolerance: float,
    most: int,
    locked: Tensor | None = None,
) -> tuple[Space, int]:
    """Grow a space until its K leading residuals are below the tolerance."""
    generator = torch.Generator().manual_seed(seed)
    n = A.shape[1]
    start = torch.randn(block, n, generator=generator, dtype=torch.float64).to(A)
    steps = 0
    for space in grow(operator, start, generator, most=most, locked=locked):
        steps += 1
        if _is_due(steps, K, block) and _has_converged(space, min(K, n), tolerance):
            break
    return refined(space), steps


def _is_due(steps: int, K: int, block: int) -> bool:
    """Whether it is time to look for convergence: what that costs grows with the space."""
    if block == 1:
        return steps % (2 if K == 1 else 8) == 0
    return steps >= _FIRST_CHECK and steps % _CHECK_EVERY == 0


def _has_converged(space: Space, K: int, tolerance: float) -> bool:
    if space.vectors.shape[0] < K + 1:
        return False
    found = ritz(space)
    resolved = tolerance * found.s[0] + rounding_of(found, K, space.vectors.dtype)
    return bool((residuals(space, found, K) <= resolved).all())


def _bounded(found: Triples, K: int, unit: float, steps: int, seen: Seen) -> TopSingular:
    eps = torch.finfo(found.left.dtype).eps
    missing = max(0, K - found.s.numel())
    s = torch.nn.functional.pad(found.s, (0, missing))
    r = torch.nn.functional.pad(found.residual, (0, missing))
    below = torch.cat([s[1:] + r[1:], s.new_zeros(1)])
    gap = (s - below).clamp(min=1e-300)
    null = s <= ROUNDING * eps * s[0]
    bound = torch.minimum(r, r.square() / gap).where(~null, 0.0) + ROUNDING * eps * s[0]
    return TopSingular(
        left=completed(found.left, null[:K]),
        s=s[:K].where(~null[:K], 0.0) * unit,
        right=completed(found.right, null[:K]),
        residual=r[:K].where(~null[:K], 0.0) * unit,
        bound=bound[:K] * unit,
        steps=steps,
        seen=seen,
    )


def _seen(space: Space, block: int, unit: float) -> Seen:
    """The Gauss quadrature of the start block, and that of a space without its last steps."""
    size = space.vectors.shape[0]
    first = space.part(max(space.first, size - block * max(1, size // block // 4)))
    whole, coarser = (_density(part, ritz(part), unit) for part in (space, first))
    return Seen(whole, coarser, space.first)


def _density(space: Space, found: Ritz, unit: float) -> Density:
    shares = found.combinations[: space.first].square().mean(0)
    if space.images is None:  # from a Gram matrix in float32: what is smaller is its rounding
        found.s[found.s < _UNTOLD * found.s[0]] = 0.0
    return Density(found.s * unit, shares)
