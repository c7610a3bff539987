"""Where the visible update lies: on principal weights, or on small ones."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from offaxis.diagnostics.base import ClosedForm, NullReading, Reading, diagnostic
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.diagnostics.sparsity import Eta, gate_name
from offaxis.linalg import gates

_OVERLAPS = ("principal_overlap", "low_magnitude_overlap")
_NORMAL_95 = 1.96
PLACED = "closed form, the changes of each binade placed at random in it"


def _nulls(update: WeightUpdate, *, alpha: float, rank: int, eta: float) -> Iterable[ClosedForm]:
    anchor, counts = update.anchor, update.counts[eta]
    behind, name = update.behind, gate_name(update)
    for quantity, weights in anchor.masks.items():
        yield ClosedForm(quantity, NullReading("chance", alpha, 0.0, 0, "the mask's density"))
        if behind is not None:
            found = gates.gate_overlap(anchor.grid, behind.rms, eta, weights, behind.error)
            yield ClosedForm(quantity, share_null(name, found, behind.method))
        stratified = gates.stratified_overlap(counts.table, weights)
        yield ClosedForm(quantity, share_null("stratified", stratified, PLACED))
    if "principal_overlap" in anchor.masks:
        odds = _odds(update, eta)
        sd = odds.log_sd if odds is not None else None
        reading = NullReading(
            "independence", 1.0, sd, 0, "closed form, no relation in any binade, row or column"
        )
        yield ClosedForm("odds_ratio", reading)


def share_null(name: str, expected: gates.Expected | None, method: str) -> NullReading:
    """The null of a share that a closed form expects; without values where it expects none."""
    if expected is None:
        return NullReading(name, None, None, 0, "no change expected")
    return NullReading(name, *expected, 0, method)


@diagnostic(
    version=3,
    units={
        "principal_overlap": "fraction",
        "low_magnitude_overlap": "fraction",
        "odds_ratio": "1",
    },
    source="arXiv:2606.07082, section 3.1 and appendix C.3 (alpha from its figure 3); "
    "Mantel & Haenszel 1959 for the odds ratio",
    settings=lambda p: {"alpha": 0.3, "rank": min(64, max(1, p // 8)), "eta": 1e-3},
    primary=("gate_half_ulp", "gate_cell_average"),
    primary_of={"odds_ratio": ("independence",)},
    ensembles=("permutation",),
    needs=("counts",),
    of_elements=True,
    closed_forms=_nulls,
)
def masks(
    update: WeightUpdate,
    *,
    alpha: Annotated[float, Gt(0), Lt(1)],
    rank: Annotated[int, Ge(1)],
    eta: Eta,
) -> Mapping[str, Reading]:
    r"""Return the shares of the visible update inside two masks of the anchor, in [0, 1].

    The principal mask holds the alpha share of entries largest in the anchor's rank-`rank`
    reconstruction, the low-magnitude mask the alpha share smallest in the anchor itself; the
    denominator is the visible update, $|M\cap M_\text{upd}|/|M_\text{upd}|$. Ties at a threshold
    are shared out. `odds_ratio` asks whether principal weights change more often than others of
    their own binade, where bf16 treats all alike: 1 where the update does not know of them, below 1
    where it avoids them; its error bound is half the width of its 95 % interval. Not defined where
    no change is visible. A vector has no principal mask.
    """
    counts = update.counts[eta]
    by_code = counts.table.sum(0)[:, 1].double()
    readings = {}
    for quantity in _OVERLAPS:
        weights = update.anchor.masks.get(quantity)
        flags = ("mask_at_tie",) if _at_tie(update, quantity) else ()
        if weights is None:
            readings[quantity] = Reading(None, 0.0, ("vector",))
        elif counts.changed > 0:
            inside = float((by_code * weights).sum())
            readings[quantity] = Reading(inside / counts.changed, 0.0, flags)
        else:
            readings[quantity] = Reading(None, 0.0, (*flags, _why_undefined(update)))
    return readings | {"odds_ratio": _odds_ratio(update, eta)}


def _odds(update: WeightUpdate, eta: float) -> gates.OddsRatio | None:
    """Beside what rows and columns explain; where nobody asked for that, by binades alone."""
    weights = update.anchor.masks["principal_overlap"]
    found = update.odds.get(eta)
    return found or gates.odds_ratio(update.counts[eta].table, weights)


def _odds_ratio(update: WeightUpdate, eta: float) -> Reading:
    weights = update.anchor.masks.get("principal_overlap")
    if weights is None:
        return Reading(None, 0.0, ("vector",))
    counts = update.counts[eta]
    if counts.changed == 0:
        return Reading(None, 0.0, (_why_undefined(update),))
    found = _odds(update, eta)
    if found is None:
        return Reading(None, 0.0, ("no_binade_decides",))
    flags = ("mask_at_tie",) if _at_tie(update, "principal_overlap") else ()
    return Reading(found.value, found.value * _NORMAL_95 * found.log_sd, flags)


def _why_undefined(update: WeightUpdate) -> str:
    return "zero_update" if update.is_zero else "no_visible_change"


_TIE = 1e-8  # below this relative gap the rank-r reconstruction depends on rounding


def _at_tie(update: WeightUpdate, quantity: str) -> bool:
    return quantity == "principal_overlap" and update.anchor.mask_gap < _TIE
