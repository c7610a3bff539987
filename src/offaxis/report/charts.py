"""Vega-Lite specifications. Every chart reads one data set by name; colours follow the arms."""

from collections.abc import Sequence
from typing import Any

from offaxis.report.study import Arm

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
TOTAL_WIDTH = 1030
AXIS_WIDTH = 62
GAP = 12


def panels(
    arms: Sequence[Arm],
    *,
    y_title: str,
    y_log: bool,
    rows: Sequence[str],
    y_domain: tuple[float, float] | None = None,
    height: int = 132,
) -> Spec:
    """Draw small multiples: a column per arm, a row per variant, each with its null behind it."""
    room = TOTAL_WIDTH - AXIS_WIDTH - (24 if len(rows) > 1 else 0)
    width = max(110, min(300, room // len(arms) - GAP))
    y_scale: Spec = {"type": "log"} if y_log else {"zero": False}
    if y_domain is not None:
        y_scale = {**y_scale, "domain": list(y_domain), "nice": False}
    x = {
        "field": "step",
        "type": "quantitative",
        "title": "step",
        "scale": {"type": "log", "nice": False, "padding": 4},
        "axis": {"tickCount": 3, "grid": False},
    }
    # Narrow panels: the figure's title names the quantity, the axis its unit.
    y = {"field": "value", "type": "quantitative", "title": y_title or None, "scale": y_scale}
    null = {"filter": "datum.kind === 'null'"}
    band = {"x": x, "y": {**y, "field": "lo"}, "y2": {"field": "hi"}}
    tips = [
        {"field": "arm", "title": "arm"},
        {"field": "run", "title": "run"},
        {"field": "step", "title": "step"},
        {"field": "value", "title": f"value {y_title}".strip(), "format": ".3~g"},
        {"field": "beside", "title": "null", "format": ".3~g"},
    ]
    layers = [
        {"transform": [null], "mark": {"type": "area", "style": "null-band"}, "encoding": band},
        {
            "transform": [null],
            "mark": {"type": "line", "style": "null-line"},
            "encoding": {"x": x, "y": y},
        },
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
                "color": _colour(arms, legend=False),
                "tooltip": tips,
            },
        },
    ]
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


def overlay(
    arms: Sequence[Arm],
    *,
    x: str,
    x_title: str,
    x_log: bool,
    y_title: str,
    y_log: bool,
    width: int = 440,
    legend: bool = True,
) -> Spec:
    """Draw the runs of all arms over each other, their nulls dashed in the same colour."""
    across = {
        "field": x,
        "type": "quantitative",
        "title": x_title,
        "scale": {"type": "log", "nice": False, "padding": 6} if x_log else {"zero": False},
        "axis": {"tickCount": 5, "grid": False},
    }
    up = {
        "field": "value",
        "type": "quantitative",
        "title": y_title,
        "scale": {"type": "log"} if y_log else {"zero": False},
    }
    base = {
        "x": across,
        "y": up,
        "detail": {"field": "run", "type": "nominal"},
        "color": _colour(arms, legend=legend),
    }
    tips = [
        {"field": "arm", "title": "arm"},
        {"field": "run", "title": "run"},
        {"field": "step", "title": "step"},
        {"field": x, "title": x_title, "format": ".3~g"},
        {"field": "value", "title": y_title, "format": ".3~g"},
    ]
    if x == "step":
        tips.pop(3)
    seeds = {
        "transform": [{"filter": "datum.kind === 'seed'"}],
        "mark": {
            "type": "line",
            "strokeWidth": 1.8,
            "opacity": 0.85,
            "point": {"size": 18, "filled": True},
        },
        "encoding": {**base, "order": {"field": "step"}, "tooltip": tips},
    }
    nulls = {
        "transform": [{"filter": "datum.kind === 'null'"}],
        "mark": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1.2, "opacity": 0.75},
        "encoding": {**base, "order": {"field": "step"}},
    }
    return {"$schema": SCHEMA, "width": width, "height": 240, "layer": [nulls, seeds]}


def heat(*, columns: int, rows: int) -> Spec:
    """Draw one number per matrix: layers across, roles down. The page fills in scale and data."""
    return {
        "$schema": SCHEMA,
        "width": min(900, max(240, columns * 84 if columns <= 10 else columns * 22)),
        "height": max(90, rows * 30),
        "encoding": {
            "x": {
                "field": "layer",
                "type": "ordinal",
                "title": "layer",
                "axis": {"labelAngle": 0, "orient": "top"},
            },
            "y": {"field": "role", "type": "nominal", "title": None, "sort": None},
        },
        "layer": [
            {
                "mark": {"type": "rect", "cornerRadius": 2},
                "encoding": {
                    "color": {
                        "field": "shown",
                        "type": "quantitative",
                        "title": None,
                        "scale": {"scheme": "viridis"},
                        "legend": {"gradientLength": 160, "format": ".3~g"},
                    },
                    "tooltip": [
                        {"field": "tensor", "title": "matrix"},
                        {"field": "value", "title": "value", "format": ".3~g"},
                        {"field": "null", "title": "null", "format": ".3~g"},
                    ],
                },
            },
        ],
    }


def lines(
    arms: Sequence[Arm], *, x_title: str, y_title: str, x_log: bool, width: int = 440
) -> Spec:
    """Draw curves over a rank index, with horizontal dashed lines where the data has a null."""
    colour = _colour(arms, legend=True)
    y = {
        "field": "value",
        "type": "quantitative",
        "title": y_title,
        "scale": {"type": "log"},
    }
    x = {
        "field": "index",
        "type": "quantitative",
        "title": x_title,
        "scale": {"type": "log", "nice": False} if x_log else {"zero": False, "nice": False},
        "axis": {"grid": False, "tickCount": 6},
    }
    return {
        "$schema": SCHEMA,
        "width": width,
        "height": 250,
        "layer": [
            {
                "transform": [{"filter": "datum.kind === 'edge'"}],
                "mark": {"type": "rule", "strokeDash": [4, 3], "opacity": 0.8},
                "encoding": {"y": y, "color": colour},
            },
            {
                "transform": [{"filter": "datum.kind === 'anchor'"}],
                "mark": {"type": "line", "style": "null-line", "strokeDash": [1, 0]},
                "encoding": {"x": x, "y": y},
            },
            {
                "transform": [{"filter": "datum.kind === 'curve'"}],
                "mark": {"type": "line", "strokeWidth": 1.8, "opacity": 0.9},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "tooltip": [
                        {"field": "arm", "title": "arm"},
                        {"field": "index", "title": x_title},
                        {"field": "value", "title": y_title, "format": ".3~g"},
                    ],
                },
            },
        ],
    }


def _colour(arms: Sequence[Arm], *, legend: bool) -> Spec:
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
