"""The largest singular values and vectors by Golub-Kahan-Lanczos bidiagonalisation."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from offaxis.linalg.products import in_units, largest, product, unit_of

_CHECK_EVERY = 8
_COPY_STEPS = 8  # enough to see a value equal to one that was found


class TopSingular(NamedTuple):
    r"""The K largest singular triples that were found, values descending.

    Attributes:
        left: Left vectors, as columns.
        s: Their values, Rayleigh-Ritz approximations from below.
        right: Right vectors, as columns.
        residual: Of each triple, $\lVert Av-su\rVert$ and $\lVert A^\top u-sv\rVert$ together.
        bound: Absolute error of each value.
        steps: Products with A and its transpose that were taken.
    """

    left: Float[Tensor, "m K"]
    s: Float64[Tensor, " K"]
    right: Float[Tensor, "n K"]
    residual: Float64[Tensor, " K"]
    bound: Float64[Tensor, " K"]
    steps: int


class Chain(NamedTuple):
    """A bidiagonalisation A V = U B, A'U = V B' + remainder v e': B is upper bidiagonal."""

    left: Float[Tensor, "m j"]
    right: Float[Tensor, "n j"]
    diagonal: list[float]
    above: list[float]

    def triples(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The SVD of B and the residual of each triple."""
        size = len(self.diagonal)
        B = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
        B += torch.diag(torch.tensor(self.above[: size - 1], dtype=torch.float64), 1)
        P, s, Qh = torch.linalg.svd(B)
        return P, s, Qh.T, self.above[size - 1] * P[-1].abs()


def top_singular(
    D: Float[Tensor, "m n"],
    K: int = 1,
    *,
    seed: int = 0,
    tolerance: float = 1e-4,
    max_steps: int = 64,
    double: bool = False,
) -> TopSingular:
    r"""Return the K largest singular triples of a matrix.

    Full reorthogonalisation; the start vector comes from `seed` alone. Each value is never above
    the true one but for rounding. Its error is at most its residual r, and $r^2/2g$ (Kato-Temple)
    with g the gap to the next value found; for K > 1 a second start vector looks for further
    copies of equal values.

    Args:
        D: The matrix.
        K: How many triples; at most min(m, n) are returned.
        seed: Of the start vectors.
        tolerance: Residual, as a share of the largest value, at which to stop.
        max_steps: Most steps of one bidiagonalisation. What was reached is in `residual`.
        double: Work in float64 instead of float32.

    Returns:
        The triples. The vectors of a value 0 are arbitrary.

    Source:
        Golub & Kahan 1965, doi:10.1137/0702016; Parlett 1998, "The Symmetric Eigenvalue Problem",
        section 11.5.
    """
    dtype = torch.float64 if double else torch.float32
    unit = unit_of(largest(D))
    is_wide = D.shape[0] < D.shape[1]
    A = in_units(D.T if is_wide else D, unit, dtype)
    K = min(K, *D.shape)
    found = _Triples(
        A.new_zeros(A.shape[0], 0),
        A.new_zeros(0, dtype=torch.float64),
        A.new_zeros(A.shape[1], 0),
        A.new_zeros(0, dtype=torch.float64),
    )
    taken = 0
    while taken == 0 or found.s.numel() < min(A.shape):
        steps = max_steps if taken == 0 else min(max_steps, _COPY_STEPS)
        wanted = K if taken == 0 else 1
        noise = 32 * torch.finfo(dtype).eps * float(found.s[0]) if taken else 0.0
        chain = bidiagonalise(
            A,
            seed + taken,
            max_steps=steps,
            wanted=wanted,
            tolerance=tolerance,
            locked=found.right,
            noise=noise,
        )
        taken += len(chain.diagonal)
        more = _found(chain, K + 1)  # one more, for the last one's gap
        if taken and float(more.s[0]) <= noise:
            break  # nothing is left but the rounding of what was found
        is_copy = found.s.numel() < K or bool(
            more.s[0] > found.s[K - 1] + found.residual[K - 1] + tolerance * found.s[0]
        )
        if not is_copy:
            break
        found = _merged(found, more, max(K + 1, found.s.numel() + 1))
        if K == 1:
            break
    top = _bounded(found, K, unit, taken, torch.finfo(dtype).eps)
    return top._replace(left=top.right, right=top.left) if is_wide else top


def bidiagonalise(
    A: Float[Tensor, "m n"],
    seed: int,
    *,
    max_steps: int,
    wanted: int = 0,
    tolerance: float = 0.0,
    locked: Float[Tensor, "n l"] | None = None,
    noise: float = 0.0,
) -> Chain:
    """Return a bidiagonalisation from a random right vector, orthogonal to the locked ones.

    It ends after `max_steps`, when the leading `wanted` residuals are below `tolerance` times the
    largest value, or when the space is exhausted: when what is left is below `noise` or rounding.
    """
    m, n = A.shape
    held = 0 if locked is None else locked.shape[1]
    rank = max(1, min(max_steps, m, n - held))
    # vectors are rows, so that the ones in use are contiguous
    U, V = A.new_zeros(rank, m), A.new_zeros(held + rank, n)
    if locked is not None:
        V[:held] = locked.T
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, generator=generator, dtype=torch.float64).to(A)
    chain = Chain(U.T, V[held:].T, [], [])
    size = _orthogonalised(x, V[:held])
    for j in range(rank):
        V[held + j] = x[:, 0] / size if size > 0 else x[:, 0]
        y = product(A, V[held + j, :, None])
        chain.diagonal.append(_orthogonalised(y, U[:j]))
        negligible = max(noise, 4 * torch.finfo(A.dtype).eps * max(chain.diagonal))
        size = 0.0
        if chain.diagonal[j] > negligible:
            U[j] = y[:, 0] / chain.diagonal[j]
            x = product(A.T, U[j, :, None])
            size = _orthogonalised(x, V[: held + j + 1])
        chain.above.append(size)
        if size <= negligible or _has_converged(chain, wanted, tolerance):
            break
    length = len(chain.diagonal)
    return Chain(U[:length].T, V[held : held + length].T, chain.diagonal, chain.above)


def _has_converged(chain: Chain, wanted: int, tolerance: float) -> bool:
    steps = len(chain.diagonal)
    if not wanted or steps < wanted or steps % _CHECK_EVERY:
        return False
    _, s, _, residual = chain.triples()
    return bool((residual[:wanted] <= tolerance * s[0]).all())


def _orthogonalised(x: Float[Tensor, "n 1"], rows: Float[Tensor, "j n"]) -> float:
    """Take out of x, in place, what lies in the span of the rows, twice; return its norm then."""
    if rows.shape[0]:
        for _ in range(2):
            x -= product(rows.T, product(rows, x))
    return float(torch.linalg.vector_norm(x))


class _Triples(NamedTuple):
    left: Tensor
    s: Tensor
    right: Tensor
    residual: Tensor


def _found(chain: Chain, K: int) -> _Triples:
    P, s, Q, residual = chain.triples()
    left = product(chain.left, P[:, :K].to(chain.left))
    right = product(chain.right, Q[:, :K].to(chain.right))
    return _Triples(left, s[:K], right, residual[:K])


def _merged(a: _Triples, b: _Triples, count: int) -> _Triples:
    s, order = torch.cat([a.s, b.s]).sort(descending=True, stable=True)
    order = order[:count]
    return _Triples(
        torch.cat([a.left, b.left], 1)[:, order],
        s[:count],
        torch.cat([a.right, b.right], 1)[:, order],
        torch.cat([a.residual, b.residual])[order],
    )


def _bounded(found: _Triples, K: int, unit: float, steps: int, eps: float) -> TopSingular:
    missing = max(0, K - found.s.numel())
    s = torch.nn.functional.pad(found.s, (0, missing))
    r = torch.nn.functional.pad(found.residual, (0, missing))
    below = torch.cat([s[1:] + r[1:], s.new_zeros(1)])
    gap = (s - below).clamp(min=1e-300)
    bound = torch.minimum(r, r.square() / gap) + 32 * eps * s[:1]
    null = s[:K] <= 32 * eps * s[0]
    return TopSingular(
        left=_completed(found.left, null),
        s=s[:K].where(~null, 0.0) * unit,
        right=_completed(found.right, null),
        residual=r[:K] * unit,
        bound=bound[:K] * unit,
        steps=steps,
    )


def _completed(X: Float[Tensor, "n j"], null: Bool[Tensor, " K"]) -> Float[Tensor, "n K"]:
    """The vectors, those of null values replaced by an orthonormal completion of the others."""
    kept = X[:, : int((~null).sum())]
    if kept.shape[1] == null.numel():
        return kept
    generator = torch.Generator().manual_seed(0)
    fill = torch.randn(X.shape[0], null.numel() - kept.shape[1], generator=generator).to(X)
    return torch.cat([kept, torch.linalg.qr(torch.cat([kept, fill], 1)).Q[:, kept.shape[1] :]], 1)
