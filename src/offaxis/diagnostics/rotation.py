"""Principal-angle rotation of the anchor's top singular subspaces."""

from collections.abc import Mapping

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


def _gap(anchor: Matrix, k: int) -> float:
    s = anchor.s
    return float(s[k - 1] - s[k]) if k < s.numel() else float(s[k - 1])


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
    ensembles=("sign_flip", "permutation"),
)
def rotation(update: WeightUpdate, *, k: int) -> Mapping[str, Reading]:
    r"""Return how far the top-k singular subspaces turned, in radians in [0, pi/2].

    `gap` is $(s_k-s_{k+1})/s_k$ of the anchor and `gap_ratio` $\lVert dW\rVert_2/(s_k-s_{k+1})$:
    where the latter is not small the largest angle may be a swap at the boundary of two nearly
    equal directions, and is flagged so. Angles of a zero update are 0; `gap` is not defined for a
    zero anchor, nor is `gap_ratio` where the gap is 0; k above the smaller dimension leaves all
    undefined.
    """
    anchor = update.anchor
    if not 1 <= k <= anchor.p:
        return dict.fromkeys(rotation_units, Reading(None, 0.0, ("k_outside_dimension",)))
    gap, s_k = _gap(anchor, k), float(anchor.s[k - 1])
    size = 0.0 if update.delta.is_zero else float(update.delta.s[0])
    flags = ("zero_update",) if update.delta.is_zero else ()
    at_boundary = (*flags, "boundary") if size > _BOUNDARY * gap else flags
    left, right = rotation_angles(update, k)
    resolution = 100 * EPS * float(anchor.s[0]) / gap if gap > 0 else float("inf")
    bound = min(resolution, 1.6) if size > 0 else 0.0
    relative = anchor.rounding / s_k if s_k > 0 else 0.0
    return {
        "left_max": Reading(left[-1], bound, at_boundary),
        "left_mean": Reading(sum(left) / k, bound, flags),
        "right_max": Reading(right[-1], bound, at_boundary),
        "right_mean": Reading(sum(right) / k, bound, flags),
        "gap": Reading(gap / s_k, 2 * relative)
        if s_k > 0
        else Reading(None, 0.0, ("zero_anchor",)),
        "gap_ratio": Reading(size / gap, 4 * anchor.rounding * size / gap**2, flags)
        if gap > 0
        else Reading(None, 0.0, (*flags, "tied_gap")),
    }


rotation_units = tuple(rotation.units)
