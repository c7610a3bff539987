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
    factor_rank             columns of the delta's thin factors, where it is held as their product
    left_step_rms, right_step_rms   root mean square of the rows of each factor's own step since the
                            checkpoint before; at the first, of the factors
    row_rms, col_rms        root mean square of the delta's rows and columns
    row_ratios, col_ratios  share of each row and column that changed, where it was measured
    anchor_spectrum, current_spectrum, angles_left, angles_right, inside   the curves, where
                            measured

Its metadata holds, as JSON under `unit`, what it was made from and the readings and nulls, those of
earlier settings beside the latest. The curves of angles are those of the k that was measured last.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import NullReading, Reading
from offaxis.engine import Evaluated
from offaxis.files import write_atomically
from offaxis.table import definition, definition_settings

FORMAT = "4"

Cells = list[list[Any]]


@dataclass(frozen=True)
class Provenance:
    """What a unit was made from, and by diagnostic every definition that it holds."""

    anchor: str
    current: str
    before: str
    tensor: str
    view: str
    storage: str
    dtype: str
    tier: str
    draws: str
    definitions: Mapping[str, tuple[str, ...]]

    def is_of(self, wanted: "Provenance") -> bool:
        """Whether it was made of the same weights in the same way.

        What the checkpoint before was, and which definitions are held, is another question.
        """
        return replace(self, before=wanted.before, definitions=wanted.definitions) == wanted

    def lacks(self, wanted: "Provenance", befores: Collection[str]) -> set[str]:
        """The diagnostics that are wanted and not held, of a unit made of the same.

        Similarity is held where the increment begins at any of the checkpoints that may count as
        the one before.
        """
        found = {
            name
            for name, texts in wanted.definitions.items()
            if not set(texts) <= set(self.definitions.get(name, ())) or name not in self.definitions
        }
        moved = similarity.NAME in self.definitions and self.before not in befores
        return found | ({similarity.NAME} if moved else set())

    @property
    def ranks(self) -> tuple[int, ...]:
        """The K at which subspaces can be compared over time."""
        texts = self.definitions.get(similarity.NAME, ())
        return tuple(sorted(int(definition_settings(text)["K"]) for text in texts))


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
        """Read some of the unit's tensors, those that exist; all where none is named."""
        with safe_open(self.path, framework="pt") as handle:
            held = set(handle.keys())
            return {name: handle.get_tensor(name) for name in names or held if name in held}


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
        told = content["provenance"]
        held = {name: tuple(texts) for name, texts in told.pop("definitions").items()}
        provenance = Provenance(**told, definitions=held)
        return Unit(provenance, content["readings"], content["nulls"], path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def provenance(path: Path) -> Provenance | None:
    """What a unit was made from, and what it holds; None as in `load`."""
    unit = load(path)
    return None if unit is None else unit.provenance
