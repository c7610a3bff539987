"""Relatives of the two masks: what lies in one but not in the other, and how full each is."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from jaxtyping import Float64
from torch import Tensor

from offaxis.diagnostics.base import (
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
    undefined,
)
from offaxis.diagnostics.facts import Anchor, WeightUpdate
from offaxis.diagnostics.masks import PLACED, masks, share_null
from offaxis.diagnostics.sparsity import Eta, gate_name
from offaxis.linalg import gates

Weights = Mapping[str, Float64[Tensor, "16"]]


def _masks(anchor: Anchor) -> Weights:
    """The weight that an entry of each code has in each combination of the two masks."""
    principal, low = (anchor.masks[f"{name}_overlap"] for name in ("principal", "low_magnitude"))
    return {
        "principal_not_low": principal * (1 - low),
        "not_principal": 1 - principal,
        "not_principal_or_low": 1 - principal * (1 - low),
        "principal_or_low": 1 - (1 - principal) * (1 - low),
        "principal": principal,
        "low_magnitude": low,
    }


def _nulls(update: WeightUpdate, *, alpha: float, rank: int, eta: float) -> Iterable[ClosedForm]:
    if not _is_matrix(update):
        return
    grid, table, behind = update.anchor.grid, update.counts[eta].table, update.behind
    entries, name = table.sum((0, 2)).double(), gate_name(update)
    density = float(table[..., 1].sum() / table.sum())
    weights_of = _masks(update.anchor)
    for quantity in mask_algebra.units:
        label, _, kind = quantity.rpartition("_")
        weights = weights_of[label]
        size = float(entries @ weights / entries.sum())
        is_coverage = kind == "coverage"
        chance = density if is_coverage else size
        yield ClosedForm(quantity, NullReading("chance", chance, 0.0, 0, "a density"))
        if behind is not None:
            found = gates.gate_overlap(grid, behind.rms, eta, weights, behind.error)
            expected = gates.gate_density(grid, behind.rms, eta).mean
            scaled = _scaled(found, expected / size if is_coverage else 1.0)
            yield ClosedForm(quantity, share_null(name, scaled, behind.method))
        placed = gates.stratified_overlap(table, weights)
        scaled = _scaled(placed, density / size if is_coverage else 1.0)
        yield ClosedForm(quantity, share_null("stratified", scaled, PLACED))


def _scaled(found: gates.Expected | None, factor: float) -> gates.Expected | None:
    return None if found is None else gates.Expected(found.mean * factor, found.sd * factor)


@diagnostic(
    version=1,
    units={
        "principal_not_low_overlap": "fraction",
        "not_principal_overlap": "fraction",
        "not_principal_or_low_overlap": "fraction",
        "principal_or_low_overlap": "fraction",
        "principal_coverage": "fraction",
        "low_magnitude_coverage": "fraction",
    },
    source="arXiv:2511.08567, section 4.2 (the third mask) and its masked training; coverage: "
    "arXiv:2606.13657",
    settings=masks.settings,
    settings_of="masks",
    primary=("gate_half_ulp", "gate_cell_average"),
    ensembles=("permutation",),
    needs=("counts",),
    is_relative=True,
    closed_forms=_nulls,
)
def mask_algebra(
    update: WeightUpdate,
    *,
    alpha: Annotated[float, Gt(0), Lt(1)],
    rank: Annotated[int, Ge(1)],
    eta: Eta,
) -> Mapping[str, Reading]:
    r"""Return the shares of the visible update in combinations of the masks, in [0, 1].

    With P the principal and L the low-magnitude mask of `masks`, whose settings are taken:
    $P\cap L^c$, the principal weights that are not small; $P^c$; $P^c\cup L$, its complement to
    the first; $P\cup L$. An entry tied at both thresholds is shared out as if they were
    independent. `coverage` turns the question round: the share of P, and of L, that the update
    changed. Overlaps are not defined where no change is visible; a vector has no principal mask.
    """
    if not _is_matrix(update):
        return undefined(mask_algebra, "vector")
    table = update.counts[eta].table.sum(0).double()
    entries, changed = table.sum(1), table[:, 1]
    weights = _masks(update.anchor)
    total = float(changed.sum())
    why = () if total else (("zero_update",) if update.is_zero else ("no_visible_change",))
    readings = {}
    for quantity in mask_algebra.units:
        label, _, kind = quantity.rpartition("_")
        inside = float(changed @ weights[label])
        if kind == "coverage":
            size = float(entries @ weights[label])
            readings[quantity] = Reading(inside / size, 0.0, why)
        else:
            readings[quantity] = Reading(inside / total if total else None, 0.0, why)
    return readings


def _is_matrix(update: WeightUpdate) -> bool:
    return update.anchor.masks.get("principal_overlap") is not None
