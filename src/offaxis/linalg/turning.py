"""How far the top-k singular subspaces turned, from the update in the anchor's basis."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.linalg.products import product
from offaxis.linalg.projection import Projection
from offaxis.linalg.refinement import NEGLIGIBLE, Refinement, refine
from offaxis.linalg.tridiagonal import eigenvalues

RESOLUTION = 1e-5
"""Error of the mean angle, in radians, that is always good enough."""

_MARGIN = 8.0  # over what the refinement estimates of its own error
_SHARE = 0.1  # of the mean angle that its error may be where that is larger
_ROOT = torch.finfo(torch.float64).eps ** 0.5  # of a sine from its square


class Side(NamedTuple):
    """One side's angles, in radians, ascending, and the share of energy that moved out.

    Attributes:
        angles: Principal angles between the old and the new top-k subspaces.
        containment: Angles of the old top k into the new top k + max(1, k // 8).
        energy_lost: 1 - tr(P_t G_0) / (s_1^2 + ... + s_k^2), P_t the projector on the new top k
            and G_0 the anchor's Gram.
    """

    angles: Float64[Tensor, " k"]
    containment: Float64[Tensor, " k"]
    energy_lost: float


class Turning(NamedTuple):
    """The turning of both sides, with error bounds.

    Attributes:
        left: Of the output side.
        right: Of the input side.
        bound: Absolute error of every angle and every quantile, in radians.
        mean_bound: That of the mean angle of either side.
        containment_bound: That of the mean angle of containment.
        energy_bound: That of the energy lost.
        floor: The angle below which rounding hides everything; at most `mean_bound`.
        met: Whether the bound of the mean is at most 1e-5 rad or a tenth of the mean, and two
            subspaces of this dimension need not share a direction.
    """

    left: Side
    right: Side
    bound: float
    mean_bound: float
    containment_bound: float
    energy_bound: float
    floor: float
    met: bool


def turned_angles(projection: Projection, *, spectral_norm: float) -> Turning:
    r"""Return how far the top-k singular subspaces of the anchor turned.

    The left subspace Y is refined in the anchor's basis, the right one is $W_t^\top Y$ there:
    angles are arcsines of what of them lies outside the leading k coordinates.

    Args:
        projection: The update in the anchor's basis.
        spectral_norm: An upper bound of the update's largest singular value; the Frobenius norm
            will do, at the price of a check.

    Returns:
        Zeros with bound 0 for a zero update. Where the k-th and the next value tie, or the update
        is too large for the anchor's basis, `met` is False.

    Source:
        Björck & Golub 1973, doi:10.1090/S0025-5718-1973-0348991-3 (the sine form).
    """
    k = projection.k
    if projection.is_zero:
        zeros = torch.zeros(k, dtype=torch.float64, device=projection.s.device)
        side = Side(zeros, zeros, 0.0)
        return Turning(side, side, 0.0, 0.0, 0.0, 0.0, 0.0, met=bool(projection.s[0] > 0))
    refined = refine(projection, spectral_norm=spectral_norm)
    lam = projection.s.square()
    Y = torch.cat([refined.leading, refined.rest.double()])
    nothing = torch.zeros(Y.shape[1], Y.shape[1], dtype=Y.dtype, device=Y.device)
    short = _side(Y, nothing, lam, k)
    X, outside, neglected = _other_side(projection, refined, spectral_norm)
    long = _side(X, outside, lam, k)
    left, right = (short, long) if projection.is_wide else (long, short)
    largest = max(float(side.angles[-1]) for side in (left, right))
    error = refined.error + neglected + _ROOT * largest
    bound = min(error, math.pi / 2)
    mean_bound = min(error / math.sqrt(k), math.pi / 2)
    smallest = min(float(side.angles.mean()) for side in (left, right))
    # Without room for both, subspaces share directions, and the root of a rounded square shows.
    is_roomy = 2 * (k + max(1, k // 8)) <= len(lam)
    met = is_roomy and refined.separated and mean_bound <= max(RESOLUTION, _SHARE * smallest)
    turned = max(float(side.angles.norm()) for side in (left, right))
    relative = refined.contraction + min(1.0, error / max(turned, error)) if error > 0 else 0.0
    contained = max(float(side.containment.norm()) for side in (left, right)) / math.sqrt(k)
    contained_bound = relative * contained + mean_bound * relative + 4 * _ROOT
    lost = max(left.energy_lost, right.energy_lost)
    extra = (error**2) * float(lam[0] / lam[:k].sum())
    energy_bound = 2 * math.sqrt(max(lost, 0.0) * extra) + extra + 1e-14
    return Turning(
        left=left,
        right=right,
        bound=min(_MARGIN * bound, math.pi / 2),
        mean_bound=min(_MARGIN * mean_bound, math.pi / 2),
        containment_bound=min(_MARGIN * contained_bound, math.pi / 2),
        energy_bound=_MARGIN * energy_bound,
        floor=min(refined.floor / math.sqrt(k), mean_bound),
        met=met,
    )


def _other_side(
    projection: Projection, refined: Refinement, spectral_norm: float
) -> tuple[Float64[Tensor, "p r"], Float64[Tensor, "r r"], float]:
    """W_t' Y in the anchor's right basis, the Gram of what lies outside, and what was left out.

    dW' applied to the small rest of Y is of second order, and left out where it is negligible.
    """
    t, s, k = projection.t, projection.s, projection.k
    C, Z = refined.leading, refined.rest
    moved = product(projection.P_top.T, C.float())
    F = (
        product(projection.K_top.T, C.float())
        if projection.D.shape[0] < len(projection.long)
        else None
    )
    least = math.sqrt(max(float(refined.theta[k - 1]), 1e-300))
    neglected = spectral_norm / projection.unit / least
    if neglected > NEGLIGIBLE and Z.shape[0]:
        rest = product(projection.D.T, product(projection.short[:, t:], Z))
        moved += product(projection.long.T, rest)
        F = F if F is None else F + rest
        neglected = 0.0
    outside = torch.zeros(C.shape[1], C.shape[1], dtype=C.dtype, device=C.device)
    if F is not None:
        F -= product(projection.long, moved)
        outside = product(F.T, F).double()
    X = moved.double()
    X[:t] += s[:t, None] * C
    X[t:] += s[t:, None] * Z.double()
    return X, outside, neglected * float(Z[:, :k].norm())


def _side(
    Y: Float64[Tensor, "p r"], outside: Float64[Tensor, "r r"], lam: Float64[Tensor, " p"], k: int
) -> Side:
    """Angles, containment and energy lost of nested subspaces, given in the anchor's basis."""
    rest = product(Y[k:].T, Y[k:]) + outside
    total = product(Y[:k].T, Y[:k]) + rest
    L = torch.linalg.cholesky(total)
    half = torch.linalg.solve_triangular(L[:k, :k], rest[:k, :k], upper=False)
    sines = torch.linalg.solve_triangular(L[:k, :k], half.T, upper=False)
    squares = eigenvalues(((sines + sines.T) / 2).contiguous()).flip(0).clamp(0, 1)
    # orthonormal columns, of which the first k span the new top k
    Q = torch.linalg.solve_triangular(L, Y.T, upper=False).T
    inside = product(Q[:k], Q[:k].T)
    missing = torch.eye(k, dtype=Q.dtype, device=Q.device) - inside
    contained = eigenvalues(((missing + missing.T) / 2).contiguous()).flip(0).clamp(0, 1)
    shares = Q[:, :k].square().sum(1)
    kept, level = 1 - shares[:k], lam[k - 1]
    lost = (lam[:k] - level) @ kept.clamp(min=0) + (level - lam[k:]) @ shares[k:]
    hidden = (1 - (shares.sum() / k)).clamp(min=0) * k * level if bool(outside.any()) else 0.0
    energy = float((lost + hidden) / lam[:k].sum())
    return Side(squares.sqrt().arcsin(), contained.sqrt().arcsin(), energy)
