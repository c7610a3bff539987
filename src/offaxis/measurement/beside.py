"""What a unit held before, beside what is made of the same update now."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from offaxis.diagnostics import similarity
from offaxis.measurement.options import diagnostics
from offaxis.measurement.units import Cells, Provenance

Definitions = Mapping[str, tuple[str, ...]]

_AS_MADE = {
    "rotation": ("angles_left", "angles_right"),
    similarity.NAME: (
        "increment_left",
        "increment_right",
        "increment_spectrum",
        "increment_residuals",
        "increment_norm",
        "factor_rank",
        "left_step_rms",
        "right_step_rms",
    ),
}
"""The tensors that are those of the diagnostic's last making."""

_AS_LONG = ("left", "right", "residuals", "delta_spectrum")
"""The tensors of which the making that kept more serves every other one."""


def definitions(held: Provenance, wanted: Provenance) -> Definitions:
    """Every definition of both, of the present versions."""
    present = _versions()
    kept = {
        name: tuple(text for text in texts if _version(text) == present[name])
        for name, texts in held.definitions.items()
        if name in present
    }
    names = {**kept, **wanted.definitions}
    return {
        name: tuple(sorted({*kept.get(name, ()), *wanted.definitions.get(name, ())}))
        for name in names
    }


def rows(held: Cells, made: Cells) -> Cells:
    """Rows held before under definitions that are not made again, and those made, in one order.

    Rows of an earlier version of a diagnostic are left behind: a version is raised where numbers
    were wrong or mean something else.
    """
    present = _versions()
    order = {name: place for place, name in enumerate(present)}
    again = {_key(row) for row in made}
    kept = [
        row for row in held if _version(row[2]) == present.get(row[0]) and _key(row) not in again
    ]
    return sorted([*kept, *made], key=lambda row: (order[row[0]], row[2]))


def tensors(
    held: Mapping[str, Tensor], made: Mapping[str, Tensor], names: Collection[str]
) -> dict[str, Tensor]:
    """The tensors of both; of those in both, the held ones unless the made ones must be taken.

    Args:
        held: Kept before.
        made: Kept now.
        names: The diagnostics made now.
    """
    newer = {tensor for name in names for tensor in _AS_MADE.get(name, ())}
    newer |= {
        name
        for name in _AS_LONG
        if name in held and name in made and made[name].numel() > held[name].numel()
    }
    return {**made, **held, **{name: made[name] for name in newer if name in made}}


def _versions() -> dict[str, str]:
    found = {name: item.version for name, item in diagnostics().items()}
    found[similarity.NAME] = similarity.VERSION
    return {name: f"v{version}" for name, version in found.items()}


def _version(text: str) -> str:
    return text.split(";", maxsplit=1)[0]


def _key(row: Sequence[Any]) -> tuple[str, str]:
    diagnostic, _, named = row[:3]
    return diagnostic, named
