"""The exact tier: float64 Gram matrices, one tridiagonalisation each, bounds of rounding alone."""

import math

import torch
from torch import Tensor

from offaxis.diagnostics.base import Need
from offaxis.diagnostics.facts import (
    Estimate,
    Rotation,
    Shift,
    Side,
    Spectrum,
)
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.parts import Parts, angles_of, leading_of
from offaxis.linalg import ranks
from offaxis.linalg.angles import RESIDUAL, turned
from offaxis.linalg.factors import Spectrum as Values
from offaxis.linalg.factors import SymmetricFactors, TopFactors, factorise, subspace_floor
from offaxis.linalg.factors import spectrum as values_of
from offaxis.linalg.lanczos import top_singular

_EPS = torch.finfo(torch.float64).eps
_SINGLE = 2.0**-18  # of what is lost, where its energy is taken in float32
_LARGE = 2048  # from this dimension on a matrix outgrows the cache, and its reduction is slow
_CONVERGED = 1e-6  # residual, as a share of the largest value, that float32 reaches
_STEPS = 128


def movement(anchor: PreparedAnchor, current: Tensor, needs: frozenset[Need]) -> Parts:
    """What one factorisation of the current matrix tells: its spectrum and top subspaces."""
    if anchor.basis is None or anchor.facts.is_zero or not needs & {"shift", "rotation"}:
        return Parts()
    factors = factorise(current)
    kept = {"anchor_spectrum": anchor.facts.s, "current_spectrum": factors.spectrum.s}
    shift = _shift(anchor, factors) if "shift" in needs else None
    k, p = anchor.request.k, anchor.facts.p
    if "rotation" not in needs or k == 0:
        return Parts(shift=shift, kept=kept)
    larger = min(p, k + max(1, k // 8))
    floors = factors.subspace_floor(k), factors.subspace_floor(larger)
    top = factors.top(larger)
    del factors  # p^2 numbers that the angles do not need
    rotation = _rotation(anchor, top, floors)
    return Parts(shift=shift, rotation=rotation, kept=kept | angles_of(rotation))


def _shift(anchor: PreparedAnchor, factors: SymmetricFactors) -> Shift:
    old, new = anchor.facts, factors.spectrum
    scale = float(old.s.norm())
    moved = float((new.s - old.s).norm())
    return Shift(Estimate(moved / scale, float((new.bound + old.s_bound).norm()) / scale))


def _rotation(anchor: PreparedAnchor, top: TopFactors, floors: tuple[float, float]) -> Rotation:
    """The turn of the top-k subspaces, given those slightly larger ones and their resolution."""
    basis, s, k = anchor.basis, anchor.facts.s, anchor.request.k
    assert basis is not None
    here = subspace_floor(s, k, (anchor.facts.rows, anchor.facts.cols))
    floor, wider = (min(here + there, math.pi / 2) for there in floors)

    left = _side(anchor.W, s[:k], basis.U_top[:, :k], top.left, floor)
    right = _side(anchor.W.T, s[:k], basis.V_top[:, :k], top.right, floor)
    largest = max(float(side.angles[-1]) for side in (left, right))
    widest = max(float(side.contained[-1]) for side in (left, right))
    bound = floor + RESIDUAL * largest
    return Rotation(k, left, right, bound, bound, wider + RESIDUAL * widest, bound)


def _side(W: Tensor, s: Tensor, old: Tensor, new: Tensor, floor: float) -> Side:
    """One side's turn; the energy lost knows what float32 leaves of it, where it is taken so."""
    found = turned(W, s, old, new)
    rounding = _SINGLE if W.dtype.itemsize <= 2 else 0.0
    error = 100 * _EPS + (floor + rounding) * float(found.angles.sin().square().sum())
    return Side(found.angles, found.contained, Estimate(found.energy_lost, min(error, 1.0)))


def of_delta(delta: Tensor, *, norm: float, rounding: float, vectors: int, seed: int = 0) -> Parts:
    """The spectrum of an update and its leading singular vectors, none of them if 0 are asked.

    Of a large matrix the values alone cost half of what values and vectors do: its few vectors are
    taken by Lanczos, with the residuals that they leave, where it converges. `rounding` is the
    Frobenius norm of what the entries of the delta have lost, which no value can have moved more.
    """
    if vectors and min(delta.shape) < _LARGE:
        factors = factorise(delta)
        return Parts(_spectrum(factors.spectrum, norm, rounding), kept=_leading(factors, vectors))
    found = values_of(delta)
    spectrum = _spectrum(found, norm, rounding)
    if not vectors:
        return Parts(spectrum)
    top = top_singular(delta, vectors, seed=seed, tolerance=_CONVERGED, max_steps=_STEPS)
    if float(top.residual.max()) > 10 * _CONVERGED * float(found.s[0]):
        return Parts(spectrum, kept=_leading(factorise(delta), vectors))
    return Parts(spectrum, kept={**leading_of(top, vectors), "delta_spectrum": found.s})


def _spectrum(found: Values, norm: float, rounding: float) -> Spectrum:
    s, bound = found.s, found.bound + rounding
    rank = Estimate(ranks.effective_rank(s), ranks.effective_rank_bound(s, bound))
    return Spectrum(s, bound, energy=norm**2, effective_rank=rank)


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
