"""The exact tier: float64 Gram matrices, one tridiagonalisation each, bounds of rounding alone."""

import math

import torch
from torch import Tensor

from offaxis.diagnostics.base import Estimate, Need, Rotation, Shift, Side, Spectrum
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.parts import Parts, angles_of
from offaxis.linalg import ranks
from offaxis.linalg.angles import energy_lost, principal_angles
from offaxis.linalg.factors import SymmetricFactors, factorise, subspace_floor
from offaxis.linalg.factors import spectrum as values_of

_EPS = torch.finfo(torch.float64).eps


def movement(anchor: PreparedAnchor, current: Tensor, needs: frozenset[Need]) -> Parts:
    """What one factorisation of the current matrix tells: its spectrum and top subspaces."""
    if anchor.basis is None or anchor.facts.is_zero or not needs & {"shift", "rotation"}:
        return Parts()
    factors = factorise(current)
    kept = {"anchor_spectrum": anchor.facts.s, "current_spectrum": factors.spectrum.s}
    shift = _shift(anchor, factors) if "shift" in needs else None
    if "rotation" not in needs or anchor.request.k == 0:
        return Parts(shift=shift, kept=kept)
    rotation = _rotation(anchor, factors, anchor.request.k)
    return Parts(shift=shift, rotation=rotation, kept=kept | angles_of(rotation))


def _shift(anchor: PreparedAnchor, factors: SymmetricFactors) -> Shift:
    old, new = anchor.facts, factors.spectrum
    scale = float(old.s.norm())
    moved = float((new.s - old.s).norm())
    return Shift(Estimate(moved / scale, float((new.bound + old.s_bound).norm()) / scale))


def _rotation(anchor: PreparedAnchor, factors: SymmetricFactors, k: int) -> Rotation:
    basis, s = anchor.basis, anchor.facts.s
    assert basis is not None
    larger = min(s.numel(), k + max(1, k // 8))
    top = factors.top(larger)
    here = subspace_floor(s, k, (anchor.facts.rows, anchor.facts.cols))
    floor, wider = (min(here + factors.subspace_floor(j), math.pi / 2) for j in (k, larger))

    def side(W: Tensor, old: Tensor, new: Tensor) -> Side:
        turned = principal_angles(old, new[:, :k])
        lost = energy_lost(W, s[:k], old, new[:, :k])
        error = 100 * _EPS + floor * float(turned.sin().square().sum())
        return Side(turned, principal_angles(old, new), Estimate(lost, min(error, 1.0)))

    left = side(anchor.W, basis.U_top[:, :k], top.left)
    right = side(anchor.W.T, basis.V_top[:, :k], top.right)
    return Rotation(k, left, right, floor, floor, wider, floor)


def of_delta(delta: Tensor, *, norm: float, vectors: int) -> Parts:
    """The spectrum of an update and its leading singular vectors, none of them if 0 are asked."""
    factors = factorise(delta) if vectors else None
    found = factors.spectrum if factors is not None else values_of(delta)
    rank = Estimate(ranks.effective_rank(found.s), ranks.effective_rank_bound(found.s, found.bound))
    spectrum = Spectrum(found.s, found.bound, energy=norm**2, effective_rank=rank)
    return Parts(spectrum=spectrum, kept={} if factors is None else _leading(factors, vectors))


def leading(delta: Tensor, vectors: int) -> dict[str, Tensor]:
    """The leading vectors of an update and all its values, under the names that units keep."""
    return _leading(factorise(delta), vectors)


def _leading(factors: SymmetricFactors, vectors: int) -> dict[str, Tensor]:
    top = factors.top(vectors)
    return {
        "left": top.left,
        "right": top.right,
        "delta_spectrum": factors.spectrum.s,
        "residuals": torch.zeros_like(top.s),
    }
