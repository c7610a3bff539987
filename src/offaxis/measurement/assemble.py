"""From finished units to rows of the public tables, one matrix of one run at a time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offaxis.checkpoints.trajectory import Trajectory
from offaxis.checkpoints.views import View
from offaxis.diagnostics import similarity
from offaxis.errors import ResultsError
from offaxis.measurement import cost, units
from offaxis.measurement.options import Options, Storage
from offaxis.measurement.over_time import similarity_cells
from offaxis.measurement.spool import Part, spool
from offaxis.measurement.units import NULL_CELLS, READING_CELLS, Cells, Unit
from offaxis.table import ResultsFolder, Row
from offaxis.workers import give_back


@dataclass(frozen=True)
class RunView:
    """One matrix of one run: where its units lie, and what its rows say of it.

    `steps` are those that have been measured under each storage; `rows` is the file that its rows
    are gathered in on their way to the tables.
    """

    results: ResultsFolder
    run: str
    anchor: str
    steps: Mapping[Storage, tuple[int, ...]]
    view: View
    master_precision: str
    options: Options
    rows: Path

    @property
    def peak_bytes(self) -> int:
        """Memory that comparing its checkpoints holds at most, whatever their number."""
        return cost.comparing_bytes(self.view, self.options.walk_draws)


def gather_rows(item: RunView) -> None:
    """Read the units of one matrix of one run, add similarity over time, and keep the rows.

    Raises:
        ResultsError: If a unit that was measured is not there any more.
    """
    spool(item.rows, _parts(item))


def _parts(item: RunView) -> Iterator[Part]:
    """The rows of every checkpoint in turn, then those over time; one checkpoint is in memory."""
    for storage, steps in item.steps.items():
        held: list[Held] = []
        for step in steps:
            unit = _unit(item, step, storage)
            yield from _cells(item, step, unit, (unit.readings, unit.nulls))
            yield from _curves(item, step, unit)
            held.append((step, replace(unit, readings=[], nulls=[])))
            give_back()
        for (step, unit), cells in _over_time(item, held, storage):
            yield from _cells(item, step, unit, cells)
            give_back()


def _unit(item: RunView, step: int, storage: Storage) -> Unit:
    path = item.results.factors(item.run, step, f"{item.view.label}.{storage}")
    unit = units.load(path)
    if unit is None:
        raise ResultsError(
            str(path),
            expected="the unit of a checkpoint that was measured and has been deleted since",
            found="a damaged file" if path.exists() else "no such file",
            do="bring the checkpoint back and measure again, or begin in another --out",
        )
    return unit


Held = tuple[int, Unit]


def _over_time(
    item: RunView, held: Sequence[Held], storage: Storage
) -> Iterator[tuple[Held, tuple[Cells, Cells]]]:
    """Similarity between those checkpoints for which it was measured, at every K that was."""
    key = f"{item.options.seed}|{item.run}|{item.view.key}|{storage}"
    for kept, ranks in _compared(held).items():
        steps, compared = [held[i][0] for i in kept], [held[i][1] for i in kept]
        overrides = {**item.options.overrides, similarity.NAME: {"K": ranks}}
        options = replace(item.options, overrides=overrides)
        cells = similarity_cells(compared, steps, storage, key, options)
        yield from zip((held[i] for i in kept), cells, strict=True)


def _compared(held: Sequence[Held]) -> dict[tuple[int, ...], list[int]]:
    """The ranks at which the same checkpoints can be compared, by the places of these."""
    found: dict[tuple[int, ...], list[int]] = {}
    for K in sorted({K for _, unit in held for K in unit.provenance.ranks}):
        having = tuple(i for i, (_, unit) in enumerate(held) if K in unit.provenance.ranks)
        found.setdefault(having, []).append(K)
    return found


_COMPUTED = {"exact": "float64", "fast": "float32"}
"""By tier: the fast one projects on the anchor's basis in float32, within its stated bounds."""


def _cells(item: RunView, step: int, unit: Unit, cells: tuple[Cells, Cells]) -> Iterator[Part]:
    view, made = item.view, unit.provenance
    key = {"run": item.run, "step": step, "tensor": view.tensor, "view": view.view}
    place = {
        **key,
        "anchor": item.anchor,
        "layer": view.layer,
        "role": view.role,
        "rows": view.rows,
        "cols": view.cols,
        "stored_precision": made.dtype if made.storage == "stored" else "bfloat16",
        "master_precision": item.master_precision,
    }
    readings, nulls = cells
    found = [place | dict(zip(READING_CELLS, row, strict=True)) for row in readings]
    yield "readings", [row | {"compute_precision": _COMPUTED[str(row["method"])]} for row in found]
    yield "nulls", [key | dict(zip(NULL_CELLS, row, strict=True)) for row in nulls]


def _curves(item: RunView, step: int, unit: Unit) -> Iterator[Part]:
    key = {
        "run": item.run,
        "step": step,
        "tensor": item.view.tensor,
        "view": item.view.view,
        "precision": unit.provenance.storage,
    }
    spectra = {"anchor": "anchor_spectrum", "current": "current_spectrum"}
    for matrix, values in _held(unit, {**spectra, "delta": "delta_spectrum"}):
        yield "spectra", [{**key, "matrix": matrix, "singular_values": values}]
    for side, values in _held(unit, {"left": "angles_left", "right": "angles_right"}):
        yield "angles", [{**key, "side": side, "angles": values}]
    for _, values in _held(unit, {"inside": "inside"}):
        p, q = sorted((item.view.rows, item.view.cols))
        isotropic = [k * k / (p * q) for k in range(1, p + 1)]
        yield "blocks", [{**key, "inside": values, "isotropic": isotropic}]


def _held(unit: Unit, names: Mapping[str, str]) -> Iterator[tuple[str, list[float]]]:
    held = unit.tensors(*names.values())
    for label, name in names.items():
        if name in held:
            yield label, held[name].tolist()


def training_rows(trajectory: Trajectory) -> list[Row]:
    """The run's own log, long: one row for each number of each logged step."""
    if trajectory.folder is None:
        return []
    return [
        {
            "run": trajectory.run,
            "step": line["step"],
            "quantity": name,
            "value": _finite(float(value)),
        }
        for line in trajectory.folder.log()
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _finite(value: float) -> float | None:
    """A number, or null for what is none."""
    return value if math.isfinite(value) else None
