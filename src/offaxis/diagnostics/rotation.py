"""Principal-angle rotation of the anchor's top singular subspaces."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge

from offaxis.diagnostics.base import Reading, Tier, diagnostic, undefined
from offaxis.diagnostics.facts import Rotation, Side, WeightUpdate

_BOUNDARY = 0.1  # an update above this share of the gap can swap directions across it

_OF_A_SIDE = ("max", "mean", "median", "q90", "contained_max", "contained_mean", "energy_lost")


@diagnostic(
    version=3,
    units={
        **{
            f"{side}_{name}": "fraction" if name == "energy_lost" else "rad"
            for side in ("left", "right")
            for name in _OF_A_SIDE
        },
        "gap": "1",
        "gap_ratio": "1",
    },
    source="arXiv:2606.07082, section 3.1; Björck & Golub 1973",
    settings=lambda p: {"k": min(512, max(1, p // 8))},
    primary=("random_factors", "sign_flip"),
    ensembles=("sign_flip", "random_factors"),
    needs=("rotation", "spectrum"),
)
def rotation(update: WeightUpdate, *, k: Annotated[int, Ge(1)]) -> Mapping[str, Reading]:
    r"""Return how far the top-k singular subspaces turned, in radians in [0, pi/2].

    The largest angle depends on where k falls: `gap` is $(s_k-s_{k+1})/s_k$ of the anchor and
    `gap_ratio` $\lVert dW\rVert_2/(s_k-s_{k+1})$; where the latter is not small it may be a swap at
    the boundary of two nearly equal directions, and is flagged `boundary`. Mean, median and the
    0.9 quantile depend on it less. Two readings hardly do: `contained` are the angles of the
    anchor's k directions into the top k + k/8 of the current matrix, `energy_lost`
    $1-\mathrm{tr}(P_tG_0)/\sum_{i\le k}s_i^2$ the share of the anchor's top-k energy that its own
    Gram matrix no longer finds in the current subspace. Angles of a zero update are 0. An angle
    below what is resolved carries the flag `below_resolution`. Where the anchor's gap is within
    rounding of 0 its subspace is not defined: all carry the flag `tied_gap`, and `gap_ratio` is
    undefined; so is `gap` where the anchor has fewer than k directions. A zero anchor leaves all
    undefined, as does k above the smaller dimension.
    """
    anchor, spectrum = update.anchor, update.spectrum
    if not 1 <= k <= anchor.p:
        return undefined(rotation, "k_outside_dimension")
    if anchor.is_zero:
        return undefined(rotation, "zero_anchor")
    gap, error, s_k = anchor.gap(k), anchor.gap_bound(k), float(anchor.s[k - 1])
    is_tied = gap <= error
    flags = (("zero_update",) if update.is_zero else ()) + (("tied_gap",) if is_tied else ())
    size, size_error = 0.0, 0.0
    tier: Tier = "exact"
    if not update.is_zero and spectrum is not None:
        size, size_error = float(spectrum.top[0]), float(spectrum.bound[0])
        tier = spectrum.tier
    boundary = ("boundary",) if size > _BOUNDARY * gap else ()
    turned = update.rotation
    if update.is_zero or turned is None:
        names = [name for name in rotation.units if not name.startswith("gap")]
        readings = dict.fromkeys(names, Reading(0.0, 0.0, flags))
    else:
        assert turned.k == k, "facts were taken for another k"
        readings = {
            f"{side}_{name}": reading
            for side, found in (("left", turned.left), ("right", turned.right))
            for name, reading in _side(found, turned, flags, boundary).items()
        }
    is_deficient = s_k <= float(anchor.s_bound[k - 1])
    return readings | {
        "gap": Reading(None, 0.0, (*flags, "rank_deficient"))
        if is_deficient
        else Reading(gap / s_k, 2 * error / s_k, flags),
        "gap_ratio": Reading(None, 0.0, flags)
        if is_tied
        else Reading(size / gap, size_error / gap + 2 * error * size / gap**2, flags, tier),
    }


def _side(
    side: Side, turned: Rotation, flags: tuple[str, ...], boundary: tuple[str, ...]
) -> dict[str, Reading]:
    angles, contained = side.angles, side.contained

    def angle(value: torch.Tensor, bound: float, *more: str) -> Reading:
        below = ("below_resolution",) if float(value) < turned.floor else ()
        return Reading(float(value), min(bound, math.pi / 2), (*flags, *more, *below), turned.tier)

    return {
        "max": angle(angles[-1], turned.bound, *boundary),
        "mean": angle(angles.mean(), turned.mean_bound),
        "median": angle(angles.quantile(0.5), turned.bound),
        "q90": angle(angles.quantile(0.9), turned.bound),
        "contained_max": angle(contained[-1], turned.contained_bound),
        "contained_mean": angle(contained.mean(), turned.contained_bound),
        "energy_lost": Reading(*side.energy_lost, flags, turned.tier),
    }
