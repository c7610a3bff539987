"""Principal-angle rotation of the anchor's top singular subspaces."""

import math
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge

from offaxis.diagnostics.base import EPS, Matrix, Reading, WeightUpdate, diagnostic
from offaxis.linalg.angles import principal_angles

_BOUNDARY = 0.1  # an update above this share of the gap can swap directions across it


def rotation_angles(update: WeightUpdate, k: int) -> tuple[list[float], list[float]]:
    """The k principal angles of the left and of the right top-k subspaces, ascending, radians."""
    if update.delta.is_zero:
        return [0.0] * k, [0.0] * k
    old, new = update.anchor, update.current
    left: list[float] = principal_angles(old.left(k), new.left(k)).tolist()
    right: list[float] = principal_angles(old.right(k), new.right(k)).tolist()
    return left, right


def _gap(matrix: Matrix, k: int) -> float:
    s = matrix.s
    return float(s[k - 1] - s[k]) if k < s.numel() else float(s[k - 1])


def _resolution(matrix: Matrix, k: int) -> float:
    """Bound of the top-k subspace's rounding error, in radians; at most a right angle."""
    gap = _gap(matrix, k)
    return min(100 * EPS * float(matrix.s[0]) / gap, math.pi / 2) if gap > 0 else math.pi / 2


@diagnostic(
    version=1,
    units={
        "left_max": "rad",
        "left_mean": "rad",
        "right_max": "rad",
        "right_mean": "rad",
        "gap": "1",
        "gap_ratio": "1",
    },
    source="arXiv:2606.07082, section 3.1; Björck & Golub 1973",
    settings=lambda p: {"k": min(512, max(1, p // 8))},
    primary=("sign_flip",),
    ensembles=("sign_flip",),
)
def rotation(update: WeightUpdate, *, k: Annotated[int, Ge(1)]) -> Mapping[str, Reading]:
    r"""Return how far the top-k singular subspaces turned, in radians in [0, pi/2].

    `gap` is $(s_k-s_{k+1})/s_k$ of the anchor and `gap_ratio` $\lVert dW\rVert_2/(s_k-s_{k+1})$:
    where the latter is not small the largest angle may be a swap at the boundary of two nearly
    equal directions, and is flagged so. Angles of a zero update are 0. Where the anchor's gap is
    within rounding of 0 its subspace is not defined: all carry the flag `tied_gap`, and `gap_ratio`
    is undefined; so is `gap` where the anchor has fewer than k directions. A zero anchor leaves all
    undefined, as does k above the smaller dimension.
    """
    anchor = update.anchor
    if not 1 <= k <= anchor.p:
        return _undefined("k_outside_dimension")
    if anchor.is_zero:
        return _undefined("zero_anchor")
    gap, s_k = _gap(anchor, k), float(anchor.s[k - 1])
    size = 0.0 if update.delta.is_zero else float(update.delta.s[0])
    flags = ("zero_update",) if update.delta.is_zero else ()
    if gap <= anchor.rounding:
        flags = (*flags, "tied_gap")
    at_boundary = (*flags, "boundary") if size > _BOUNDARY * gap else flags
    left, right = rotation_angles(update, k)
    bound = _resolution(anchor, k) + _resolution(update.current, k) if size > 0 else 0.0
    return {
        "left_max": Reading(left[-1], bound, at_boundary),
        "left_mean": Reading(sum(left) / k, bound, flags),
        "right_max": Reading(right[-1], bound, at_boundary),
        "right_mean": Reading(sum(right) / k, bound, flags),
        "gap": Reading(gap / s_k, 4 * anchor.rounding / s_k, flags)
        if s_k > anchor.rounding
        else Reading(None, 0.0, (*flags, "rank_deficient")),
        "gap_ratio": Reading(size / gap, 4 * anchor.rounding * size / gap**2, flags)
        if gap > anchor.rounding
        else Reading(None, 0.0, flags),
    }


def _undefined(why: str) -> Mapping[str, Reading]:
    return dict.fromkeys(rotation.units, Reading(None, 0.0, (why,)))
