"""Vega-Lite specifications. Every chart reads one data set by name; colours follow the arms."""

import math
from collections.abc import Sequence
from typing import Any

from offaxis.report.study import Arm

Spec = dict[str, Any]
Row = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
TOTAL_WIDTH = 1030
HALF_WIDTH = 490
FEW_ARMS = 2  # so few panels fit into half the page
AXIS_WIDTH = 62
GAP = 12

# A null that lies further than this factor beyond the readings would squeeze them: it is clipped.
NULL_REACH = 30.0
STEP_TICKS = [digit * 10**power for power in range(7) for digit in (1, 3)]


def panels(
    arms: Sequence[Arm],
    *,
    y_title: str,
    y_log: bool,
    data: Sequence[Row],
    rows: Sequence[str],
    height: int = 132,
) -> Spec:
    """Draw small multiples: a column per arm, a row per variant, each with its null behind it."""
    total = TOTAL_WIDTH if len(arms) > FEW_ARMS else HALF_WIDTH
    room = total - AXIS_WIDTH - (24 if len(rows) > 1 else 0)
    width = max(110, room // len(arms) - GAP)
    x = {
        "field": "step",
        "type": "quantitative",
        "title": "step",
        "scale": {"type": "log", "nice": False, "padding": 4},
        "axis": {"values": STEP_TICKS, "tickCount": len(STEP_TICKS), "grid": False},
    }
    # Narrow panels: the figure's title names the quantity, the axis its unit.
    y = _axis("value", y_title or None, data, log=y_log)
    layers = _seeds_before_null(arms, x, y, y_title)
    facet: Spec = {
        "column": {
            "field": "arm",
            "type": "nominal",
            "sort": [arm.label for arm in arms],
            "header": {"title": None, "labelLimit": width + 8},
        }
    }
    if len(rows) > 1:
        facet["row"] = {
            "field": "row",
            "type": "nominal",
            "sort": list(rows),
            "header": {"title": None, "labelAngle": -90, "labelLimit": height + 20},
        }
    return {
        "$schema": SCHEMA,
        "facet": facet,
        "spacing": {"column": GAP, "row": 14},
        "spec": {"width": width, "height": height, "layer": layers},
        "resolve": {"scale": {"x": "independent"}},
    }


def _seeds_before_null(arms: Sequence[Arm], x: Spec, y: Spec, y_title: str) -> list[Spec]:
    """Draw the null's band, the seeds over it, and the null's dashes on top of them."""
    null = {"filter": "datum.kind === 'null'"}
    band = {"x": x, "y": {**y, "field": "lo"}, "y2": {"field": "hi"}}
    tips = [
        {"field": "arm", "title": "arm"},
        {"field": "run", "title": "run"},
        {"field": "step", "title": "step"},
        {"field": "value", "title": f"value {y_title}".strip(), "format": ".3~g"},
        {"field": "beside", "title": "null", "format": ".3~g"},
    ]
    return [
        {"transform": [null], "mark": {"type": "area", "clip": True}, "encoding": band},
        {
            "transform": [{"filter": "datum.kind === 'seed'"}],
            "mark": {
                "type": "line",
                "strokeWidth": 1.6,
                "opacity": 0.85,
                "point": {"size": 14, "filled": True},
            },
            "encoding": {
                "x": x,
                "y": y,
                "detail": {"field": "run", "type": "nominal"},
                "color": colour(arms, legend=False),
                "tooltip": tips,
            },
        },
        {
            "transform": [null],
            "mark": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1.4, "clip": True},
            "encoding": {"x": x, "y": y},
        },
    ]


def overlay(
    arms: Sequence[Arm],
    *,
    x: str,
    x_title: str,
    x_log: bool,
    y_title: str,
    y_log: bool,
    data: Sequence[Row],
    width: int = 412,
) -> Spec:
    """Draw the runs of all arms over each other, their nulls dashed in the same colour."""
    across = _axis(x, x_title, data, log=x_log)
    across["axis"]["grid"] = False
    up = _axis("value", y_title, data, log=y_log)
    base = {
        "x": across,
        "y": up,
        "detail": {"field": "run", "type": "nominal"},
        "color": colour(arms, legend=True),
        "order": {"field": "step"},
    }
    names = {"arm": "arm", "run": "run", "step": "step"}
    tips = [
        *({"field": name, "title": title} for name, title in names.items()),
        *([] if x in names else [{"field": x, "title": x_title, "format": ".3~g"}]),
        {"field": "value", "title": y_title, "format": ".3~g"},
    ]
    seeds = {
        "transform": [{"filter": "datum.kind === 'seed'"}],
        "mark": {
            "type": "line",
            "strokeWidth": 1.8,
            "opacity": 0.85,
            "point": {"size": 18, "filled": True},
        },
        "encoding": {**base, "tooltip": tips},
    }
    nulls = {
        "transform": [{"filter": "datum.kind === 'null'"}],
        "mark": {
            "type": "line",
            "strokeDash": [4, 3],
            "strokeWidth": 1.2,
            "opacity": 0.75,
            "clip": True,
        },
        "encoding": base,
    }
    return {"$schema": SCHEMA, "width": width, "height": 240, "layer": [nulls, seeds]}


def _axis(field: str, title: str | None, data: Sequence[Row], *, log: bool) -> Spec:
    """Return an encoding; on a logarithmic axis with round ticks and no room wasted."""
    encoding: Spec = {"field": field, "type": "quantitative", "title": title, "axis": {}}
    if not log:
        return {**encoding, "scale": {"zero": False}}
    numbers = [row[field] for row in data if row["kind"] == "seed" and (row.get(field) or 0) > 0]
    if not numbers:
        return {**encoding, "scale": {"type": "log"}}
    low, high = min(numbers), max(numbers)
    for row in data:
        beside = row.get(field) or 0
        if low / NULL_REACH <= beside <= high * NULL_REACH:
            low, high = min(low, beside), max(high, beside)
    low, high = low / 1.15, high * 1.15
    encoding["axis"] = {"values": log_ticks(low, high), "tickCount": 12}
    return {**encoding, "scale": {"type": "log", "domain": [low, high], "nice": False}}


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers within a positive range: decades, or 1-2-5 where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9)):
        # Parsed from text, as 10.0**-3 is not the nearest float to a thousandth.
        ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) > 2:
            return inside[:: 1 + (len(inside) - 1) // 6]
    return inside


def colour(arms: Sequence[Arm], *, legend: bool) -> Spec:
    """Return the encoding that gives every arm its colour throughout the page."""
    return {
        "field": "arm",
        "type": "nominal",
        "scale": {
            "domain": [arm.label for arm in arms],
            "range": [arm.colour for arm in arms],
        },
        "legend": {"title": None, "orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 3}
        if legend
        else None,
    }
