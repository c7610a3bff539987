"""From finished units to the public tables, one run at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from offaxis.checkpoints.trajectory import Trajectory
from offaxis.checkpoints.views import View
from offaxis.diagnostics import similarity
from offaxis.measurement import units
from offaxis.measurement.options import Options, Storage
from offaxis.measurement.over_time import similarity_cells
from offaxis.measurement.units import NULL_CELLS, READING_CELLS, Cells, Unit
from offaxis.table import ResultsFolder, Row

STORAGES: tuple[Storage, ...] = ("stored", "bf16")


@dataclass(frozen=True)
class RunView:
    """One matrix of one run: where its units lie, and what its rows say of it."""

    results: ResultsFolder
    run: str
    anchor: str
    steps: tuple[int, ...]
    view: View
    master_precision: str
    options: Options


@dataclass
class Rows:
    """The rows of the four measured tables."""

    readings: list[Row]
    nulls: list[Row]
    spectra: list[Row]
    angles: list[Row]


def rows_of(item: RunView) -> Rows:
    """Read the units of one matrix of one run, add similarity over time, and lay out the rows."""
    rows = Rows([], [], [], [])
    for storage in STORAGES:
        held = [
            (step, unit)
            for step in item.steps
            if (unit := units.load(_path(item, step, storage))) is not None
        ]
        if not held:
            continue
        over_time = _over_time(item, held, storage)
        for (step, unit), (readings, nulls) in zip(held, over_time, strict=True):
            _add(rows, item, step, storage, (unit.readings + readings, unit.nulls + nulls))
            _add_curves(rows, item, step, unit)
    return rows


def _path(item: RunView, step: int, storage: str) -> Path:
    return item.results.factors(item.run, step, f"{item.view.label}.{storage}")


def _over_time(
    item: RunView, held: Sequence[tuple[int, Unit]], storage: Storage
) -> list[tuple[Cells, Cells]]:
    steps, found = [step for step, _ in held], [unit for _, unit in held]
    if not all(similarity.NAME in unit.provenance.definitions for unit in found):
        return [([], []) for _ in held]
    key = f"{item.options.seed}|{item.run}|{item.view.label}|{storage}"
    return similarity_cells(found, steps, storage, key, item.options)


def _add(
    rows: Rows, item: RunView, step: int, storage: Storage, cells: tuple[Cells, Cells]
) -> None:
    view = item.view
    key = {"run": item.run, "step": step, "tensor": view.tensor, "view": view.view}
    place = {
        **key,
        "anchor": item.anchor,
        "layer": view.layer,
        "role": view.role,
        "rows": view.rows,
        "cols": view.cols,
        "stored_precision": view.dtype if storage == "stored" else "bfloat16",
        "master_precision": item.master_precision,
        "compute_precision": "float64",
    }
    readings, nulls = cells
    rows.readings.extend(place | dict(zip(READING_CELLS, row, strict=True)) for row in readings)
    rows.nulls.extend(key | dict(zip(NULL_CELLS, row, strict=True)) for row in nulls)


def _add_curves(rows: Rows, item: RunView, step: int, unit: Unit) -> None:
    key = {
        "run": item.run,
        "step": step,
        "tensor": item.view.tensor,
        "view": item.view.view,
        "precision": unit.provenance.storage,
    }
    spectra = {"anchor": "anchor_spectrum", "current": "current_spectrum"}
    for matrix, values in _curves(unit, {**spectra, "delta": "delta_spectrum"}):
        rows.spectra.append({**key, "matrix": matrix, "singular_values": values})
    for side, values in _curves(unit, {"left": "angles_left", "right": "angles_right"}):
        rows.angles.append({**key, "side": side, "angles": values})


def _curves(unit: Unit, names: Mapping[str, str]) -> Iterator[tuple[str, list[float]]]:
    held = unit.tensors(*names.values())
    for label, name in names.items():
        if name in held:
            yield label, held[name].tolist()


def training_rows(trajectory: Trajectory) -> list[Row]:
    """The run's own log, long: one row for each number of each logged step."""
    if trajectory.folder is None:
        return []
    return [
        {"run": trajectory.run, "step": line["step"], "quantity": name, "value": float(value)}
        for line in trajectory.folder.log()
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    ]
