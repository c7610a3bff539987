"""What the cast to bf16 lets through, and whether the update knows the size of the weights."""

from collections.abc import Iterable, Mapping

import torch

from offaxis.diagnostics.base import (
    ZERO_UPDATE,
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
)
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.linalg import visibility

_NORMAL_95 = 1.96


def _nulls(update: WeightUpdate) -> Iterable[ClosedForm]:
    found = update.consistency
    law = "closed form, the law of the weights whose every change shows"
    sd = None if found is None else found.log_sd
    yield ClosedForm("consistency", NullReading("open_gates", 1.0, sd, 0, law))
    seen = update.visible
    method = "nothing is hidden" if seen is None else seen.method
    sd = None if seen is None else seen.sd
    yield ClosedForm("visible_fraction", NullReading("everything_visible", 1.0, sd, 0, method))


@diagnostic(
    version=1,
    units={"consistency": "1", "visible_fraction": "fraction"},
    source="the precision gate of arXiv:2511.08567; prediction across binades derived here",
    primary=("open_gates",),
    primary_of={"visible_fraction": ("everything_visible",)},
    ensembles=(),
    needs=("counts",),
    of_elements=True,
    closed_forms=_nulls,
)
def gate(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return whether large weights change as small ones predict, and how much of dW bf16 shows.

    `consistency` is the number of changes seen over the number predicted from the weights so small
    that all their changes show: 1 where the update does not depend on the size of its weight, below
    1 where it prefers small weights, above 1 where it grows with them. It needs an anchor made of
    bf16 values and masters of more; where training rounded at every step it says `gate_per_step`.

    `visible_fraction` is $\lVert\mathrm{bf16}(W_t)-\mathrm{bf16}(W_0)\rVert_F/\lVert dW\rVert_F$:
    measured where the file holds more than bf16 (above 1 where rounding adds more than it hides),
    estimated where it holds bf16. Readings of shape at very different visible fractions do not
    compare. Error bounds are half the width of 95 % intervals. A zero update reads 0 and undefined.
    """
    if update.is_zero:
        return {
            "consistency": Reading(None, 0.0, ("zero_update",)),
            "visible_fraction": ZERO_UPDATE,
        }
    flags = _regime(update)
    return {
        "consistency": _read_consistency(update, flags),
        "visible_fraction": _read_visible(update, flags),
    }


def _regime(update: WeightUpdate) -> tuple[str, ...]:
    """What the metadata says of the gate, where it says that the closed forms do not hold."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    regime = visibility.gate_regime(known.get(update.master))
    return {"final_cast": (), "per_step": ("gate_per_step",), "unknown": ("masters_unknown",)}[
        regime
    ]


def _read_consistency(update: WeightUpdate, flags: tuple[str, ...]) -> Reading:
    if not update.anchor.grid.on_grid:
        return Reading(None, 0.0, ("off_grid",))
    found = update.consistency
    if found is None:
        return Reading(None, 0.0, ("few_open_gates",))
    return Reading(found.value, _NORMAL_95 * found.value * found.log_sd, flags)


def _read_visible(update: WeightUpdate, flags: tuple[str, ...]) -> Reading:
    seen = update.visible
    if seen is None:
        why = "no_visible_change" if update.anchor.grid.on_grid else "off_grid"
        return Reading(None, 0.0, (why,))
    return Reading(seen.value, _NORMAL_95 * seen.sd, flags if seen.sd > 0 else ())
