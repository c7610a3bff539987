"""A panel of single numbers, an arm a line."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from offaxis.reproduction.curves import Name
from offaxis.reproduction.figures.axes import value_axis
from offaxis.reproduction.figures.figure import Evidence, Panel, Row, Spec
from offaxis.reproduction.figures.looks import Shown, shown
from offaxis.reproduction.figures.place import Place


class Line(NamedTuple):
    """An arm, the label of its line, and the published number if there is one."""

    arm: str
    label: str
    published: float | None = None


def one_by_one(
    evidence: Evidence,
    place: Place,
    name: Name,
    arms: Sequence[Line],
    baseline: float | None = None,
) -> Panel:
    """Draw a quantity at the end, an arm a line: ours with its interval, the null, the published.

    Args:
        evidence: Where the numbers are.
        place: Of the panel; its height follows the number of arms.
        name: What is drawn.
        arms: In the order of their lines.
        baseline: Where a dotted line is drawn, in the unit of the axis.
    """
    said = shown(name.quantity)
    rows: list[Row] = []
    numbers: list[tuple[str, ...]] = []
    for arm, line, published in arms:
        found = evidence.study.at(arm, name)
        if found is None:
            continue
        row = {"panel": place.key, "id": arm, "arm": line}
        values = {"value": found.mean, "lo": found.low, "hi": found.high, "null": found.null}
        scaled = {k: None if v is None else said.factor * v for k, v in values.items()}
        rows.append({**row, "kind": "ours", **scaled, "draws": found.draws})
        if found.null is not None:
            rows.append({**row, "kind": "null", "value": scaled["null"]})
        if published is not None:
            rows.append({**row, "kind": "published", "value": published})
        text, null = said.text(found), said.null_text(found)
        numbers.append((place.title, line, "100 %", text, null, str(found.draws)))
    if baseline is not None and rows:
        rows.append({"panel": place.key, "id": "", "arm": "", "kind": "rule", "value": baseline})
    drawn = [line for _, line, _ in arms if any(row["arm"] == line for row in rows)]
    across, _ = value_axis(rows, said, reach=math.inf)
    place = replace(place, height=max(40, 22 * len(drawn)), has_notes=False)
    nulls = frozenset(evidence.study.null_names(name, [arm for arm, _, _ in arms]))
    spec = {**place.frame, "layer": _layers(place, drawn, across, said)}
    return Panel(rows, spec, numbers, nulls, tuple(arm for arm, _, _ in arms))


def _layers(place: Place, lines: Sequence[str], across: Spec, said: Shown) -> list[Spec]:
    up: Spec = {"field": "arm", "type": "nominal", "sort": list(lines), "title": None}
    up["axis"] = {"labelLimit": 300}
    base = {"x": across, "y": up}
    mark: Spec = {"type": "point", "size": 60, "opacity": 1, "clip": True}
    ours = {"value": "#2e7fd6"}
    tips = [
        {"field": "arm", "title": "arm"},
        {"field": "value", "title": said.axis, "format": ".3~g"},
        {"field": "draws", "title": "draws"},
    ]
    return [
        {
            "transform": [place.holds("rule")],
            "mark": {"type": "rule", "strokeDash": [1, 3], "strokeWidth": 1.5, "color": "#8a8f98"},
            "encoding": {"x": across},
        },
        {
            "transform": [place.holds("ours"), {"filter": "datum.lo !== null"}],
            "mark": {"type": "rule", "strokeWidth": 2, "clip": True},
            "encoding": {
                **base,
                "x": {**across, "field": "lo"},
                "x2": {"field": "hi"},
                "color": ours,
            },
        },
        {
            "transform": [place.holds("null")],
            "mark": {"type": "tick", "thickness": 2, "size": 14, "clip": True},
            "encoding": base,
        },
        {
            "transform": [place.holds("ours")],
            "mark": {**mark, "filled": True},
            "encoding": {**base, "color": ours, "tooltip": tips},
        },
        {
            "transform": [place.holds("published")],
            "mark": {**mark, "shape": "diamond", "strokeWidth": 1.8},
            "encoding": {**base, "color": {"value": "#d98e04"}, "tooltip": tips[:2]},
        },
    ]
