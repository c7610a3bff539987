"""Readings of single matrices at the end of every draw, for the panels of Figure 2.

A row is one number: `id` (the arm), `what` (angles and values of one matrix, largest and shift of
every matrix), `series`, `x` (the index on the panel's axis), `draw`, `tensor`, `value`, `null`,
`null_name`. Angles are in degrees.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from offaxis.report.atlas import ROLE_ORDER
from offaxis.report.frames import linear_only
from offaxis.reproduction.arms import Changes, Scale
from offaxis.reproduction.study import held_runs, measured_draws, results_of
from offaxis.table import ResultsFolder, definition_settings

Row = dict[str, Any]

_DEGREES = math.degrees(1.0)
_OF_EVERY_MATRIX = {
    ("rotation", "left_max"): ("largest", "U", _DEGREES),
    ("rotation", "right_max"): ("largest", "V", _DEGREES),
    ("spectral_shift", "spectral_shift"): ("shift", "NSS", 1.0),
}
_OF_ONE_MATRIX = {
    ("angles", "side", "left"): ("angles", "U", _DEGREES),
    ("angles", "side", "right"): ("angles", "V", _DEGREES),
    ("spectra", "matrix", "anchor"): ("values", "start", 1.0),
    ("spectra", "matrix", "current"): ("values", "end", 1.0),
}
_MOST_POINTS = 64  # of a curve over the rank index


class Matrix(NamedTuple):
    """A matrix as results name it."""

    tensor: str
    view: str


def single_matrices(
    out: Path, scale: Scale, arms: Sequence[str], changes: Changes | None = None
) -> list[Row]:
    """Return the rows of all draws.

    Args:
        out: The study's folder.
        scale: Which recipes.
        arms: Whose.
        changes: Overrides by arm.

    Raises:
        ResultsError: If a results folder is damaged.
    """
    rows: list[Row] = []
    for draw in measured_draws(out):
        results = results_of(draw, out)
        held = {facts.arm: run for run, facts in held_runs(draw, out, scale, changes).items()}
        for arm in arms:
            if arm in held:
                place = {"id": arm, "draw": draw}
                rows += [{**place, **row} for row in _of_run(results, held[arm])]
    return rows


def in_order(readings: pa.Table) -> list[Matrix]:
    """The linear matrices by layer, then by role, as the index on an axis counts them."""
    columns = ["tensor", "view", "layer", "role"]
    found = linear_only(readings).group_by(columns, use_threads=False).aggregate([]).to_pylist()
    found.sort(key=lambda row: (row["layer"] or 0, _rank(row["role"]), row["tensor"]))
    return [Matrix(row["tensor"], row["view"] or "") for row in found]


def representative(readings: pa.Table) -> Matrix | None:
    """The first matrix, by role, of the middle layer."""
    layers = sorted({layer for layer in readings["layer"].to_pylist() if layer is not None})
    if not layers:
        return None
    middle = readings.filter(pc.equal(readings["layer"], layers[len(layers) // 2]))
    return next(iter(in_order(middle)), None)


def at_the_end(table: pa.Table) -> pa.Table:
    """The rows of a run's last step."""
    return table.filter(pc.equal(table["step"], pc.max(table["step"])))


def _of_run(results: ResultsFolder, run: str) -> Iterator[Row]:
    readings = at_the_end(results.read("readings", [run]))
    places = {matrix: index for index, matrix in enumerate(in_order(readings))}
    for row in readings.to_pylist():
        drawn = _OF_EVERY_MATRIX.get((row["diagnostic"], row["quantity"]))
        matrix = Matrix(row["tensor"], row["view"] or "")
        if drawn is None or matrix not in places or not _is_stored(row):
            continue
        what, series, factor = drawn
        null = row["null_mean"]
        yield {
            **_place(what, series, places[matrix], matrix),
            "value": _scaled(row["value"], factor),
            "null": _scaled(null, factor),
            "null_name": row["null"] if null is not None else None,
        }
    chosen = representative(readings)
    if chosen is not None:
        yield from _curves(results, run, chosen)


def _curves(results: ResultsFolder, run: str, chosen: Matrix) -> Iterator[Row]:
    """Angles and singular values of the one matrix, thinned evenly over a long index."""
    for (table, column, kind), (what, series, factor) in _OF_ONE_MATRIX.items():
        numbers = "angles" if table == "angles" else "singular_values"
        for row in at_the_end(results.read(table, [run])).to_pylist():
            here = Matrix(row["tensor"], row["view"] or "") == chosen
            if not here or row[column] != kind or row["precision"] != "stored":
                continue
            found: list[float | None] = row[numbers] or []
            for index in range(0, len(found), 1 + (len(found) - 1) // _MOST_POINTS):
                place = _place(what, series, index + 1, chosen)
                yield {**place, "value": _scaled(found[index], factor), "null": None}


def _place(what: str, series: str, x: int, matrix: Matrix) -> Row:
    name = f"{matrix.tensor} [{matrix.view}]" if matrix.view else matrix.tensor
    return {"what": what, "series": series, "x": x, "tensor": name}


def _is_stored(row: Mapping[str, Any]) -> bool:
    return definition_settings(row["definition"]).get("as", "stored") == "stored"


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _rank(role: str | None) -> int:
    return ROLE_ORDER.index(role) if role in ROLE_ORDER else len(ROLE_ORDER)
