"""Vega-Lite specifications of single matrices: the layer x role map, and curves over an index."""

from collections.abc import Sequence

from offaxis.report import charts
from offaxis.report.study import Arm

ANGLE_TICKS = [float(f"{digit}e{power}") for power in range(-9, 2) for digit in (1, 2, 5)]
DECADES = [10.0**power for power in range(-9, 6)]


def heat(*, layers: Sequence[str], rows: int) -> charts.Spec:
    """Draw one number per matrix: layers across, roles down. The page fills in scale and data."""
    columns = len(layers)
    return {
        "$schema": charts.SCHEMA,
        "width": min(880, max(240, columns * (84 if columns <= 10 else 24))),
        "height": max(90, rows * 30),
        "encoding": {
            "x": {
                "field": "layer",
                "type": "ordinal",
                "title": "layer",
                "sort": list(layers),
                "axis": {"labelAngle": 0, "orient": "top"},
            },
            "y": {"field": "role", "type": "nominal", "title": None, "sort": None},
        },
        "layer": [
            {
                "mark": {"type": "rect"},
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
            *([_cell_text()] if columns <= 10 else []),
        ],
        "resolve": {"scale": {"color": "independent"}},
    }


def _cell_text() -> charts.Spec:
    """Print the number in its cell, in an ink that the page chooses against the colour."""
    return {
        "mark": {"type": "text", "fontSize": 11},
        "encoding": {
            "text": {"field": "shown", "type": "quantitative", "format": ".3~g"},
            "color": {"field": "tone", "type": "nominal", "scale": None},
        },
    }


def lines(
    arms: Sequence[Arm],
    *,
    y_title: str,
    y_ticks: Sequence[float],
    x_log: bool,
    x_title: str = "index",
    width: int = 412,
) -> charts.Spec:
    """Draw curves over a rank index, dashed where the data has a null or a noise edge."""
    colour = charts.colour(arms, legend=True)
    y = {
        "field": "value",
        "type": "quantitative",
        "title": y_title,
        "scale": {"type": "log", "nice": False, "padding": 6},
        "axis": {"values": y_ticks, "tickCount": len(y_ticks)},
    }
    x = {
        "field": "index",
        "type": "quantitative",
        "title": x_title,
        "scale": {"type": "log", "nice": False} if x_log else {"zero": False, "nice": False},
        "axis": {
            "grid": False,
            **({"values": charts.STEP_TICKS, "tickCount": 12} if x_log else {}),
        },
    }
    tips = [
        {"field": "arm", "title": "arm"},
        {"field": "index", "title": x_title},
        {"field": "value", "title": y_title, "format": ".3~g"},
    ]
    return {
        "$schema": charts.SCHEMA,
        "width": width,
        "height": 250,
        "layer": [
            {
                "transform": [{"filter": "datum.kind === 'edge'"}],
                "mark": {"type": "rule", "strokeDash": [4, 3], "opacity": 0.8},
                "encoding": {"y": y, "color": colour},
            },
            {
                "transform": [{"filter": "datum.kind === 'null'"}],
                "mark": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y},
            },
            {
                "transform": [{"filter": "datum.kind === 'anchor'"}],
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y},
            },
            {
                "transform": [{"filter": "datum.kind === 'curve'"}],
                "mark": {
                    "type": "line",
                    "strokeWidth": 1.8,
                    "opacity": 0.9,
                    "point": "transparent",
                },
                "encoding": {"x": x, "y": y, "color": colour, "tooltip": tips},
            },
        ],
    }
