"""The figures of the page: data, chart, caption and table view of each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offaxis.report import charts
from offaxis.report.frames import Floats
from offaxis.report.quantities import MISSING, QUANTITIES, Quantity, number
from offaxis.report.study import NORM, Arm, Study

Row = dict[str, Any]


@dataclass(frozen=True)
class TableView:
    """The numbers of a figure as a table."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """One figure: a chart over its own rows."""

    key: str
    title: str
    caption: str
    spec: charts.Spec
    rows: list[Row]
    table: TableView
    half: bool = False
    nulls: tuple[str, ...] = field(default=())
    mark: str = ""


Variants = Sequence[tuple[str, Quantity]]


def trajectory(study: Study, key: str, title: str, caption: str, variants: Variants) -> Figure:
    """Draw a quantity over the steps, a panel per arm, with its null behind the seeds."""
    rows = [
        {**row, "row": name}
        for name, quantity in variants
        for arm in study.arms
        for row in arm_rows(study, arm, quantity)
    ]
    quantity = variants[0][1]
    shown = [arm for arm in study.arms if any(row["arm"] == arm.label for row in rows)]
    used = [name for name, _ in variants if any(row["row"] == name for row in rows)]
    spec = charts.panels(
        shown or study.arms, y_title=quantity.unit, y_log=quantity.log, data=rows, rows=used
    )
    if quantity.log:
        caption = " ".join([caption, *_off_chart(quantity, rows)])
    null_names = study.frame.null_names.get(quantity.quantity, ())
    return Figure(
        key,
        title,
        caption,
        spec,
        rows,
        table_view(study, variants),
        half=len(shown) <= charts.FEW_ARMS,
        nulls=tuple(null_names),
    )


def _off_chart(quantity: Quantity, rows: Sequence[Row]) -> list[str]:
    """Say where a null lies that a chart of the readings has no room for."""
    values = [row["value"] for row in rows if row["kind"] == "seed"]
    nulls = [row["value"] for row in rows if row["kind"] == "null"]
    if not nulls:
        return []
    below = max(nulls) < min(values) / charts.NULL_REACH
    above = min(nulls) > max(values) * charts.NULL_REACH
    if not (below or above):
        return []
    ends = " to ".join(dict.fromkeys(quantity.text(end) for end in (min(nulls), max(nulls))))
    return [f"The null lies far {'below' if below else 'above'} the chart, at {ends}."]


def arm_rows(study: Study, arm: Arm, quantity: Quantity, x: str = "step") -> list[Row]:
    """Return the rows of one arm: a line per run, and the null averaged over the seeds."""
    rows: list[Row] = []
    nulls: dict[int, list[tuple[float, float]]] = {}
    for run in arm.run_names:
        series = study.series(run, quantity)
        if series is None:
            continue
        across = _across(study, run, quantity, x)
        for at, step, value, null, sd in zip(across, *series.parts(), strict=True):
            if step == 0 or not np.isfinite([at, value]).all() or (quantity.log and value <= 0):
                continue
            beside = float(null) if np.isfinite(null) else None
            row = {"kind": "seed", "arm": arm.label, "run": run, "step": int(step)}
            rows.append({**row, x: _plain(at), "value": float(value), "beside": beside})
            if beside is not None:
                nulls.setdefault(int(step), []).append((beside, float(sd)))
    return [*rows, *_null_rows(arm, quantity, nulls)]


def _across(study: Study, run: str, quantity: Quantity, x: str) -> Floats:
    if x == "step":
        series = study.series(run, quantity)
        return series.steps.astype(np.float64) if series is not None else np.empty(0)
    joint = study.joint(run, x, quantity)
    return joint[0] if joint is not None else np.empty(0)


def _plain(at: float) -> float | int:
    return int(at) if float(at).is_integer() else float(at)


def _null_rows(
    arm: Arm, quantity: Quantity, nulls: dict[int, list[tuple[float, float]]]
) -> list[Row]:
    rows = []
    for step, pairs in sorted(nulls.items()):
        middle = float(np.mean([mean for mean, _ in pairs]))
        spread = float(np.nanmean([sd if np.isfinite(sd) else 0.0 for _, sd in pairs]))
        low, high = middle - spread, middle + spread
        if quantity.log and low <= 0:
            low = middle
        if quantity.log and middle <= 0:
            continue
        row = {"kind": "null", "arm": arm.label, "step": step}
        rows.append({**row, "value": middle, "lo": low, "hi": high})
    return rows


def against_norm(study: Study, key: str, title: str, caption: str, quantity: Quantity) -> Figure:
    """Draw a quantity over the size of the update, all arms in one chart."""
    rows: list[Row] = []
    for arm in study.arms:
        for run in arm.run_names:
            joint = study.joint(run, "norm", quantity)
            if joint is None:
                continue
            for at, step, value, null, _ in zip(joint[0], *joint[1].parts(), strict=True):
                if not (at > 0 and np.isfinite(value)) or (quantity.log and value <= 0):
                    continue
                row = {"arm": arm.label, "run": run, "step": int(step), "norm": float(at)}
                rows.append({**row, "kind": "seed", "value": float(value)})
                if np.isfinite(null) and (null > 0 or not quantity.log):
                    rows.append({**row, "kind": "null", "value": float(null)})
    spec = charts.overlay(
        study.arms,
        x="norm",
        x_title=NORM.titled,
        x_log=True,
        y_title=quantity.titled,
        y_log=quantity.log,
        data=rows,
    )
    table = table_view(study, [("", NORM), (quantity.label, quantity)])
    return Figure(key, title, caption, spec, rows, table, half=True)


def over_steps(study: Study, key: str, title: str, caption: str, logged: str) -> Figure:
    """Draw something that training logged, all arms in one chart."""
    factor, unit, log = (100.0, "%", False) if logged == "accuracy" else (1.0, "nats", True)
    rows: list[Row] = []
    body: list[tuple[str, ...]] = []
    for arm in study.arms:
        for run in arm.run_names:
            curve = study.training.get((run, logged))
            if curve is None:
                continue
            for step, value in zip(*curve, strict=True):
                row = {"kind": "seed", "arm": arm.label, "run": run, "step": int(step)}
                if value > 0 or not log:
                    rows.append({**row, "value": factor * float(value)})
                body.append((arm.label, run, str(int(step)), number(factor * float(value))))
    spec = charts.overlay(
        study.arms,
        x="step",
        x_title="step",
        x_log=False,
        y_title=f"{title.lower()} ({unit})",
        y_log=log,
        data=rows,
    )
    table = TableView(("arm", "run", "step", f"{logged} ({unit})"), tuple(body))
    return Figure(key, title, caption, spec, rows, table, half=True)


def table_view(study: Study, variants: Variants) -> TableView:
    """Print a figure's numbers: mean and range of the seeds at each step, and the null."""
    body: list[tuple[str, ...]] = []
    for name, quantity in variants:
        for arm in study.arms:
            at: dict[int, list[tuple[float, float]]] = {}
            for run in arm.run_names:
                series = study.series(run, quantity)
                if series is not None:
                    for step, value, null, _ in zip(*series.parts(), strict=True):
                        if np.isfinite(value):
                            at.setdefault(int(step), []).append((value, null))
            body.extend(_table_row(arm, name, quantity, step, at[step]) for step in sorted(at))
    unit = variants[0][1].unit
    head = ("arm", "variant", "step", f"mean{f' ({unit})' if unit else ''}", "seeds", "null")
    return TableView(head, tuple(body))


def _table_row(
    arm: Arm, name: str, quantity: Quantity, step: int, pairs: list[tuple[float, float]]
) -> tuple[str, ...]:
    values = [value for value, _ in pairs]
    nulls = [null for _, null in pairs if np.isfinite(null)]
    null = number(float(np.mean(nulls))) if nulls else MISSING
    spread = f"{number(min(values))} to {number(max(values))}"
    seeds = spread if len(values) > 1 else "one"
    shown = name or quantity.label
    return (arm.label, shown, str(step), number(float(np.mean(values))), seeds, null)


def has(study: Study, key: str) -> bool:
    """Whether the table holds a quantity at all."""
    quantity = QUANTITIES[key]
    return any(
        (run, quantity.diagnostic, quantity.quantity) in study.frame.curves
        for arm in study.arms
        for run in arm.run_names
    )
