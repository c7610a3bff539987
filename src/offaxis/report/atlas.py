"""Single matrices: the layer x role map, and the spectra and angles of chosen matrices."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offaxis.report.quantities import DEGREES, QUANTITIES, Quantity
from offaxis.report.study import Arm, Study
from offaxis.table import ResultsFolder, definition_settings

Row = dict[str, Any]

MAPPED = ("sparsity", "right_mean", "shift", "principal", "low", "norm", "stable_rank", "hill")
ROLE_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# A page stays small: this many matrices have their curves on it, thinned to this many points.
MOST_MATRICES = 24
MOST_POINTS = 72


def map_rows(study: Study) -> list[Row]:
    """Return, per arm, quantity, layer and role, the mean over the last checkpoints."""
    rows: list[Row] = []
    for key in MAPPED:
        picked = last_rows(study, QUANTITIES[key])
        for arm in study.arms:
            rows.extend(_map_arm(picked, arm, key, QUANTITIES[key]))
    return rows


def last_rows(study: Study, quantity: Quantity) -> list[Row]:
    """Return the readings of a quantity at the last step of each run, one per matrix."""
    table = study.readings
    part = table.filter(
        pc.and_(
            pc.equal(table["diagnostic"], quantity.diagnostic),
            pc.equal(table["quantity"], quantity.quantity),
        )
    )
    return _primary(part, _last_steps(study))


def places(study: Study) -> list[Row]:
    """Return every matrix of the table once."""
    columns = ["tensor", "view", "layer", "role"]
    rows: list[Row] = study.readings.group_by(columns, use_threads=False).aggregate([]).to_pylist()
    return rows


def _last_steps(study: Study) -> dict[str, int]:
    table = study.readings.group_by("run", use_threads=False).aggregate([("step", "max")])
    return dict(zip(table["run"].to_pylist(), table["step_max"].to_pylist(), strict=True))


def _primary(part: pa.Table, last: Mapping[str, int]) -> list[Row]:
    """Keep the last step of each run under one definition, as stored where there is a choice."""
    columns = ["run", "step", "tensor", "view", "layer", "role", "definition"]
    rows = [
        row
        for row in part.select([*columns, "value", "null_mean", "error_bound"]).to_pylist()
        if row["step"] == last[row["run"]]
    ]
    stored = [
        row
        for row in rows
        if definition_settings(row["definition"]).get("as", "stored") == "stored"
    ]
    first: dict[tuple[str, str, str], Row] = {}
    for row in stored or rows:
        first.setdefault((row["run"], row["tensor"], row["view"] or ""), row)
    return list(first.values())


def _map_arm(rows: Iterable[Row], arm: Arm, key: str, quantity: Quantity) -> list[Row]:
    """Return one cell per layer and role, averaged over its matrices (experts) and seeds."""
    runs = set(arm.run_names)
    cells: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        if row["run"] in runs and row["value"] is not None:
            cells.setdefault((cell_role(row), row["layer"]), []).append(row)
    found = []
    for role, layer in sorted(cells, key=_cell_order):
        held = cells[role, layer]
        nulls = [row["null_mean"] for row in held]
        # As in every average of the page: a null over the matrices of the value, or none.
        null = None if None in nulls else quantity.factor * float(np.mean(nulls))
        found.append(
            {
                "arm": arm.label,
                "quantity": key,
                "layer": layer_name(layer),
                "role": role,
                "tensor": _cell_name(held),
                "value": quantity.factor * float(np.mean([row["value"] for row in held])),
                "null": null,
            }
        )
    return found


def cell_role(row: Row) -> str:
    """Return the row of the map that a matrix belongs to: its role, or itself without one."""
    return row["role"] or matrix_name(row["tensor"], row["view"])


def _cell_order(cell: tuple[str, int | None]) -> tuple[int, str, int]:
    role, layer = cell
    return _role_rank(role), role, -1 if layer is None else layer


def _cell_name(rows: Sequence[Row]) -> str:
    names = sorted({matrix_name(row["tensor"], row["view"]) for row in rows})
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more, averaged"


def matrix_name(tensor: str, view: str | None) -> str:
    """Name a matrix: its tensor, and the part of it that was measured."""
    return f"{tensor} [{view}]" if view else tensor


def layer_name(layer: int | None) -> str:
    """Name a layer; matrices outside the stack have none."""
    return "none" if layer is None else str(layer)


def _role_rank(role: str) -> int:
    return ROLE_ORDER.index(role) if role in ROLE_ORDER else len(ROLE_ORDER)


def chosen_matrices(study: Study) -> list[tuple[str, str]]:
    """Return (tensor, view) of the matrices whose curves are shown: the middle layer first."""
    rows = [row for row in places(study) if row["role"] in ROLE_ORDER] or places(study)
    layers = sorted({row["layer"] for row in rows if row["layer"] is not None})
    middle = layers[len(layers) // 2] if layers else 0
    rows.sort(
        key=lambda row: (
            abs((middle if row["layer"] is None else row["layer"]) - middle),
            row["layer"] or 0,
            _role_rank(row["role"] or ""),
            row["tensor"],
            row["view"] or "",
        )
    )
    return [(row["tensor"], row["view"] or "") for row in rows[:MOST_MATRICES]]


def curve_rows(study: Study, folder: ResultsFolder, table: str) -> list[Row]:
    """Return the spectra (of deltas and one anchor) or the angles of the chosen matrices.

    One run stands for each arm: its first seed, at its last step.
    """
    chosen = chosen_matrices(study)
    last = _last_steps(study)
    rows: list[Row] = []
    for position, arm in enumerate(study.arms):
        run = arm.run_names[0]
        held = _curves(folder, table, run, last.get(run, -1))
        for tensor, view in chosen:
            place = {"arm": arm.label, "tensor": matrix_name(tensor, view)}
            if table == "angles":
                rows.extend(_curve(held.get((tensor, view, "right")), "curve", DEGREES, place))
                continue
            rows.extend(_curve(held.get((tensor, view, "delta")), "curve", 1.0, place))
            if position == 0:
                rows.extend(_curve(held.get((tensor, view, "anchor")), "anchor", 1.0, place))
    return [*rows, *(_edges(study, chosen, last) if table == "spectra" else [])]


def block_rows(study: Study, folder: ResultsFolder) -> list[Row]:
    """Return the energy of each delta inside the anchor's top-k blocks, in percent, over k.

    Runs and matrices are those of the other curves; an update without preferred directions stands
    beside each matrix once.
    """
    chosen = chosen_matrices(study)
    last = _last_steps(study)
    rows: list[Row] = []
    drawn = set()
    for arm in study.arms:
        run = arm.run_names[0]
        held = _at_step(folder, "blocks", run, last.get(run, -1))
        at = {(row["tensor"], row["view"] or ""): row for row in held}
        for matrix in chosen:
            place = {"arm": arm.label, "tensor": matrix_name(*matrix)}
            row = at.get(matrix, {})
            rows.extend(_curve(row.get("inside"), "curve", 100.0, place))
            if row.get("isotropic") and matrix not in drawn:
                drawn.add(matrix)
                rows.extend(_curve(row["isotropic"], "null", 100.0, place))
    return rows


def _at_step(folder: ResultsFolder, table: str, run: str, step: int) -> list[Row]:
    """Return the curves of one checkpoint, as stored where there is a choice."""
    content = folder.read(table, [run])
    rows: list[Row] = content.filter(pc.equal(content["step"], step)).to_pylist()
    return [row for row in rows if row["precision"] == "stored"] or rows


def _curves(
    folder: ResultsFolder, table: str, run: str, step: int
) -> dict[tuple[str, str, str], list[float | None]]:
    """Return the curves of one checkpoint by matrix."""
    kind, numbers = {
        "spectra": ("matrix", "singular_values"),
        "angles": ("side", "angles"),
    }[table]
    return {
        (row["tensor"], row["view"] or "", row[kind]): row[numbers] or []
        for row in _at_step(folder, table, run, step)
        if row["tensor"] is not None and row[kind] is not None
    }


def _curve(
    numbers: Sequence[float | None] | None, kind: str, factor: float, place: Row
) -> list[Row]:
    """Return the points of a curve that a logarithmic axis can show."""
    points = [(index, (numbers or [])[index]) for index in _thinned(len(numbers or []))]
    return [
        {**place, "kind": kind, "index": index + 1, "value": factor * value}
        for index, value in points
        if value is not None and value > 0
    ]


def _thinned(size: int) -> list[int]:
    """Return positions: all of a short curve, and of a long one logarithmically fewer."""
    if size <= MOST_POINTS:
        return list(range(size))
    return sorted({round(at) - 1 for at in np.geomspace(1, size, MOST_POINTS)})


def _edges(study: Study, chosen: Sequence[tuple[str, str]], last: Mapping[str, int]) -> list[Row]:
    """Return the noise edge of each delta: the null of its spectral norm."""
    table = study.readings
    part = table.filter(
        pc.and_(pc.equal(table["quantity"], "spectral_norm"), pc.equal(table["diagnostic"], "norm"))
    )
    wanted = set(chosen)
    firsts = {arm.run_names[0]: arm.label for arm in study.arms}
    columns = ["run", "step", "tensor", "view", "definition", "null_mean"]
    rows = []
    for row in part.select(columns).to_pylist():
        stored = definition_settings(row["definition"]).get("as", "stored") == "stored"
        at_end = row["run"] in firsts and row["step"] == last[row["run"]]
        place = (row["tensor"], row["view"] or "")
        if stored and at_end and place in wanted and (row["null_mean"] or 0) > 0:
            edge = {"arm": firsts[row["run"]], "tensor": matrix_name(*place), "kind": "edge"}
            rows.append({**edge, "index": None, "value": row["null_mean"]})
    return rows
