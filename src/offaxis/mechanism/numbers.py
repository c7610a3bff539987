"""Numbers of single matrices, and their means as rows of the study table."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from offaxis.checkpoints.views import layer_and_role

_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


class Number(NamedTuple):
    """One number of one matrix, with what chance or noise gives in its place.

    Attributes:
        arm: Under which condition.
        name: Of which weight.
        quantity: What it is.
        value: None where it is not defined.
        null: Likewise.
        null_name: What the null keeps.
    """

    arm: str
    name: str
    quantity: str
    value: float | None
    null: float | None
    null_name: str


def averaged(numbers: Sequence[Number]) -> Iterator[dict[str, Any]]:
    """Yield means over all linear matrices, over those of attention, and over the others.

    Value and null are taken over the matrices for which the value is defined; a quantity that is
    defined for none has no row.
    """
    for matrices in ("linear", "attention", "mlp"):
        groups: dict[tuple[str, str, str], list[Number]] = {}
        for number in numbers:
            is_attention = layer_and_role(number.name)[1] in _ATTENTION
            is_of_it = matrices in ("linear", "attention" if is_attention else "mlp")
            if is_of_it and number.value is not None:
                key = (number.arm, number.quantity, number.null_name)
                groups.setdefault(key, []).append(number)
        for (arm, quantity, null_name), found in groups.items():
            nulls = [number.null for number in found if number.null is not None]
            yield {
                "arm": arm,
                "quantity": quantity,
                "matrices": matrices,
                "value": fmean(number.value for number in found if number.value is not None),
                "null": fmean(nulls) if nulls else None,
                "null_name": null_name,
            }
