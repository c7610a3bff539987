"""What bf16 files show of an update, and comparisons that differ in it too much to be made."""

from collections.abc import Collection, Sequence

import numpy as np

from offaxis.report import verdicts
from offaxis.report.figures import TableView, has
from offaxis.report.quantities import MISSING, QUANTITIES, Quantity, number, with_range
from offaxis.report.samples import CannotTell, sample
from offaxis.report.study import NORM, Arm, Study

# Declared heuristics: below a half, what shows is no longer the shape of the update; at a factor of
# 1.5 in the visible norm, two updates of one shape read further apart than the page's margins.
LEAST_VISIBLE = 0.5
VISIBLE_FACTOR = 1.5

# Readings of the visible update alone. Sparsity and masks stand beside nulls that know the gate.
DISTORTED = ("norm", "rank", "tail")

VISIBLE = QUANTITIES["visible"]
GATE = ("visible", "consistency", "odds", "energy")


def incomparable(fractions: Collection[float]) -> bool:
    """Whether updates of which these fractions are visible are too different to compare.

    Args:
        fractions: Norm of the visible update over that of the update, one for each point.
    """
    if len(fractions) < 2:
        return False
    low, high = min(fractions), max(fractions)
    return low < LEAST_VISIBLE or high > VISIBLE_FACTOR * low


def mark(
    study: Study,
    keys: Sequence[str],
    quantities: Sequence[Quantity],
    *places: str,
    fair: bool = True,
) -> str:
    """Return a note on comparisons that bf16 files distort, empty where they do not.

    Args:
        study: The whole table.
        keys: The arms that are compared.
        quantities: What is compared.
        places: Where they are read, as for `sample`; where norms match, they are compared too.
        fair: As for `sample`.
    """
    compared = [NORM, *quantities] if "norm" in places else quantities
    distorted = [quantity for quantity in compared if quantity.diagnostic in DISTORTED]
    if not distorted:
        return ""
    shown: dict[str, float] = {}
    for place in places:
        shown |= _visible(study, keys, place, fair=fair, say_place=len(places) > 1)
    if not incomparable(shown.values()):
        return ""
    numbers = ", ".join(f"{name} {VISIBLE.text(VISIBLE.factor * f)}" for name, f in shown.items())
    names = ", ".join(dict.fromkeys(quantity.label for quantity in distorted))
    return (
        "Do not compare as they stand: the files show very different or small shares of the "
        f"updates ({numbers}), on which these readings depend: {names}."
    )


def _visible(
    study: Study, keys: Sequence[str], place: str, *, fair: bool, say_place: bool
) -> dict[str, float]:
    """Return what fraction of each arm's update its files show; none where bf16 hides none."""
    arms = [arm for arm in map(study.arm, keys) if arm is not None]
    hiding = [arm for arm in arms if not study.bf16_runs.isdisjoint(arm.run_names)]
    try:
        seen = sample(study, keys, VISIBLE, place, fair=fair) if hiding else None
    except CannotTell:
        seen = None
    if seen is None:
        return {}
    shown = {}
    for arm in arms:
        readings = [reading.value / VISIBLE.factor for reading in seen.arms[arm.key]]
        name = f"{arm.label} {seen.place}" if say_place else arm.label
        shown[name] = verdicts.mean(readings) if arm in hiding else 1.0
    return shown


def gate_table(study: Study) -> TableView | None:
    """Return what bf16 shows at the end of training, and whether the update knows its weights."""
    shown = [QUANTITIES[key] for key in GATE if has(study, key)]
    if not shown:
        return None
    heads = [head for quantity in shown for head in (quantity.label, "null")]
    rows = tuple(
        (arm.label, *(cell for quantity in shown for cell in _beside_null(study, arm, quantity)))
        for arm in study.arms
    )
    return TableView(("arm", *heads), rows)


def _beside_null(study: Study, arm: Arm, quantity: Quantity) -> tuple[str, str]:
    readings = study.final(arm, quantity)
    means = [reading.null_mean for reading in readings if np.isfinite(reading.null_mean)]
    spreads = [reading.null_sd for reading in readings if reading.null_sd > 0]
    value = with_range([reading.value for reading in readings], quantity.unit)
    if not means:
        return value, MISSING
    spread = f" ± {number(verdicts.mean(spreads))}" if spreads else ""
    return value, f"{quantity.text(verdicts.mean(means))}{spread}"
