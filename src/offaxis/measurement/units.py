"""The unit of work on disk: one matrix of one checkpoint, one file, whole or absent.

A unit is a safetensors file. Its tensors are what later stages build on (training inside a
subspace, the monitor, similarity over time), in float64:

    left, right             the top singular vectors of the delta, as columns, K of them
    delta_spectrum          singular values of the delta, descending: all of them in the exact tier,
                            the leading ones in the fast one
    residuals               norm of what each pair of vectors leaves of its singular value
    increment_left, increment_right, increment_spectrum, increment_residuals   the same of the step
                            since the checkpoint before, leading values only
    increment_norm          Frobenius norm of that step
    row_rms, col_rms        root mean square of the delta's rows and columns
    anchor_spectrum, current_spectrum, angles_left, angles_right, inside   the curves, where
                            measured

Its metadata holds, as JSON under `unit`, what it was made from and the readings and nulls.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from offaxis.diagnostics.base import NullReading, Reading
from offaxis.engine import Evaluated
from offaxis.files import write_atomically
from offaxis.table import definition

FORMAT = "3"

Cells = list[list[Any]]


@dataclass(frozen=True)
class Provenance:
    """What a unit was made from; equal provenance means the unit need not be made again."""

    anchor: str
    current: str
    before: str
    tensor: str
    view: str
    storage: str
    dtype: str
    tier: str
    draws: str
    definitions: Mapping[str, str]

    def covers(self, wanted: "Provenance", befores: Collection[str]) -> bool:
        """Whether this unit holds everything that is wanted, made the same way.

        Its increment may begin at any of the checkpoints that may count as the one before.
        """
        mine, theirs = asdict(self), asdict(wanted)
        held, asked = mine.pop("definitions"), theirs.pop("definitions")
        known_before = mine.pop("before") in befores
        theirs.pop("before")
        return known_before and mine == theirs and asked.items() <= held.items()


@dataclass(frozen=True)
class Unit:
    """One finished unit, as read back.

    `readings` and `nulls` are rows without the columns that say where they were taken.
    """

    provenance: Provenance
    readings: Cells
    nulls: Cells
    path: Path

    def tensors(self, *names: str) -> dict[str, Tensor]:
        """Read some of the unit's tensors, those that exist."""
        with safe_open(self.path, framework="pt") as handle:
            held = set(handle.keys())
            return {name: handle.get_tensor(name) for name in names if name in held}


READING_CELLS = (
    "diagnostic",
    "quantity",
    "definition",
    "value",
    "unit",
    "null",
    "null_mean",
    "null_sd",
    "method",
    "error_bound",
    "flags",
)
NULL_CELLS = ("diagnostic", "quantity", "definition", "null", "mean", "sd", "draws", "method")


def reading_cells(
    head: tuple[str, str, str],
    reading: Reading,
    unit: str,
    null: NullReading | None,
    flags: tuple[str, ...] = (),
) -> list[Any]:
    """Lay one reading out in the order of READING_CELLS; `head` holds the first three."""
    beside = (null.null, null.mean, null.sd) if null else ("none", None, None)
    joined = ";".join((*reading.flags, *flags))
    return [*head, reading.value, unit, *beside, reading.tier, reading.error_bound, joined]


def cells(
    evaluated: Sequence[Evaluated], storage: str, flags: tuple[str, ...] = ()
) -> tuple[Cells, Cells]:
    """Lay readings and nulls out as rows, in the order of READING_CELLS and NULL_CELLS.

    `flags` hold for the whole unit.
    """
    readings: Cells = []
    nulls: Cells = []
    for item in evaluated:
        name = item.diagnostic.name
        named = definition(item.diagnostic.version, {**item.settings, "as": storage})
        for quantity, unit in item.diagnostic.units.items():
            head = (name, quantity, named)
            readings.append(
                reading_cells(head, item.readings[quantity], unit, item.primary(quantity), flags)
            )
            nulls.extend([*head, *each] for each in item.nulls[quantity])
    return readings, nulls


def save(
    path: Path,
    provenance: Provenance,
    readings: Cells,
    nulls: Cells,
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a unit atomically."""
    content = {"provenance": asdict(provenance), "readings": readings, "nulls": nulls}
    metadata = {"format": FORMAT, "unit": json.dumps(content, allow_nan=False)}
    held = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(held, temporary, metadata)
        except SafetensorError as error:  # the library's own name for a failed write
            raise OSError(str(error)) from error

    write_atomically(path, write)


def load(path: Path) -> Unit | None:
    """Read a unit; None where there is none, or what is there is not a whole unit."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
        if metadata.get("format") != FORMAT:
            return None
        content = json.loads(metadata["unit"])
        provenance = Provenance(**content["provenance"])
        return Unit(provenance, content["readings"], content["nulls"], path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
