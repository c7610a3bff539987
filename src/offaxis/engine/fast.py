"""The fast tier: the update in the anchor's singular basis, Lanczos for its top, with bounds."""

import math
from dataclasses import replace

from torch import Tensor

from offaxis.diagnostics.base import Need
from offaxis.diagnostics.facts import (
    Blocks,
    Estimate,
    Rotation,
    Shift,
    Side,
    Spectrum,
)
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.parts import Parts, angles_of, leading_of
from offaxis.engine.request import Request
from offaxis.linalg import turning
from offaxis.linalg.lanczos import TopSingular, TopValues, top_singular, top_values
from offaxis.linalg.projection import (
    Projection,
    coarse_energy_inside,
    energy_inside,
    project,
)
from offaxis.linalg.quadrature import effective_rank
from offaxis.linalg.shift import spectral_shift

_CONVERGED = 1e-4  # residual, as a share of the largest value, of readings
_OF_NOISE = 3e-3  # that of the largest value of a draw, whose own error is of its square
_SMALL_UPDATE = 0.02  # of the anchor's largest singular value
_SAFETY = 8.0  # over what the second order changes of a shift
_RELATIVE = 1e-5  # of a shift, from products of float32 factors
_COARSE = 2e-3  # relative error of the energy in blocks, from coarse products


def decompose(
    anchor: PreparedAnchor,
    delta: Tensor,
    norm: float,
    seed: int,
    *,
    needs: frozenset[Need],
    drawn: bool = False,
    known: Parts | None = None,
) -> Parts:
    """Return the parts whose bounds are met; what is missing is for the exact tier.

    Args:
        anchor: The prepared matrix.
        delta: The update.
        norm: Its Frobenius norm, above 0.
        seed: Of the start vectors.
        needs: The parts wanted.
        drawn: For a random update, of which the leading blocks are enough and no vectors are kept.
        known: Its spectrum and leading vectors, where they are known by other means.
    """
    request = anchor.request
    if known is not None and known.spectrum is not None:
        found, above = known, float(known.spectrum.top[0] + known.spectrum.bound[0])
    elif drawn:
        found, above = _drawn(delta, request, norm, seed, needs)
    else:
        top = top_singular(delta, request.values, seed=seed, tolerance=_CONVERGED)
        found = Parts(kept=leading_of(top, request.vectors))
        if "spectrum" in needs:
            found = found.beside(Parts(spectrum=_spectrum(delta, top, norm)))
        above = float(top.s[0] + top.bound[0])
    if anchor.basis is None or anchor.facts.is_zero or not needs & {"shift", "rotation", "blocks"}:
        return found
    whole = "blocks" in needs and not drawn
    projection = project(anchor.basis, delta, max(request.k, 1), whole=whole)
    shift = _shift(projection) if "shift" in needs else None
    rotation = _rotation(projection, above) if "rotation" in needs and request.k else None
    blocks = None
    if "blocks" in needs:
        reaches = whole or request.block <= projection.t
        wider = projection if reaches else project(anchor.basis, delta, request.block, whole=False)
        blocks = _blocks(wider, norm)
    kept = {} if drawn or rotation is None else angles_of(rotation)
    if blocks is not None and whole:
        kept["inside"] = blocks.inside
    return found.beside(Parts(shift=shift, rotation=rotation, blocks=blocks, kept=kept))


def lacks(found: Parts, request: Request, needs: frozenset[Need]) -> bool:
    """Whether the bound of something that was asked for was not met."""
    is_shifted = found.shift is not None and math.isfinite(found.shift.relative.bound)
    no_shift = "shift" in needs and not is_shifted
    return no_shift or ("rotation" in needs and request.k > 0 and found.rotation is None)


def mended(found: Parts, exactly: Parts) -> Parts:
    """Fill what is missing, or was not trusted, from the exact tier; what that tells stays."""
    shift = found.shift
    if shift is not None and not math.isfinite(shift.relative.bound):
        exact = exactly.shift
        told = None if exact is None else replace(exact, validity=shift.validity)
        found = replace(found, shift=told)
    return found.beside(exactly)


def blocks(anchor: PreparedAnchor, delta: Tensor, norm: float, *, drawn: bool = False) -> Parts:
    """Return the energy in the anchor's principal blocks alone; of a draw, in the leading ones."""
    if anchor.basis is None or anchor.facts.is_zero:
        return Parts()
    if drawn:
        block = max(anchor.request.block, 1)
        return Parts(blocks=_blocks(project(anchor.basis, delta, block, whole=False), norm))
    inside = (coarse_energy_inside(anchor.basis, delta) / norm**2).clamp(max=1)
    return Parts(blocks=Blocks(inside, _COARSE), kept={"inside": inside})


def largest(delta: Tensor, seed: int) -> float:
    """Return an upper estimate of the largest singular value: the value found, and its bound."""
    top = top_singular(delta, 1, seed=seed, tolerance=_OF_NOISE)
    return float(top.s[0] + top.bound[0])


def _drawn(
    delta: Tensor, request: Request, norm: float, seed: int, needs: frozenset[Need]
) -> tuple[Parts, float]:
    """The spectrum of a random update, and its largest value from above."""
    if "spectrum" not in needs:
        return Parts(), largest(delta, seed)
    top = top_values(delta, request.drawn, seed=seed)
    return Parts(spectrum=_spectrum(delta, top, norm)), float(top.s[0] + top.bound[0])


def _spectrum(delta: Tensor, top: TopSingular | TopValues, norm: float) -> Spectrum:
    return Spectrum(
        top=top.s,
        bound=top.bound,
        energy=norm**2,
        effective_rank=Estimate(*effective_rank(delta, top=top, energy=norm**2)),
        is_whole=top.s.numel() == min(delta.shape),
        tier="fast",
    )


def _shift(projection: Projection) -> Shift:
    """The shift; of infinite bound where its validity does not hold."""
    found = spectral_shift(projection)
    bound = _SAFETY * found.bound + _RELATIVE * found.value
    return Shift(Estimate(found.value, bound), found.validity, "fast")


def _rotation(projection: Projection, above: float) -> Rotation | None:
    if above > _SMALL_UPDATE * float(projection.s[0]) * projection.unit:
        return None  # beyond it the refinement's own estimate of its error is no bound
    try:
        found = turning.turned_angles(projection, spectral_norm=above)
    except RuntimeError:  # LinAlgError, which torch does not export: nothing definite is left
        return None
    if not found.met:
        return None
    largest_contained = max(float(side.containment[-1]) for side in (found.left, found.right))
    left, right = (
        Side(side.angles, side.containment, Estimate(side.energy_lost, found.energy_bound))
        for side in (found.left, found.right)
    )
    return Rotation(
        k=projection.k,
        left=left,
        right=right,
        bound=found.bound,
        mean_bound=found.mean_bound,
        contained_bound=max(found.containment_bound, largest_contained),
        floor=found.floor,
        tier="fast",
    )


def _blocks(projection: Projection, norm: float) -> Blocks:
    if projection.rest is not None:
        inside = energy_inside(projection)
    else:
        corner = projection.P_top[:, : projection.t].double().square()
        inside = corner.cumsum(0).cumsum(1).diagonal() * projection.unit**2
    return Blocks((inside / norm**2).clamp(max=1), _COARSE)
