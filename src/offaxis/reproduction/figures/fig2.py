"""Figure 2: rotation of the start's subspaces and drift of its spectrum, matrix by matrix."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from offaxis.report.quantities import number
from offaxis.reproduction.entries import PARADIGMS
from offaxis.reproduction.figures.averages import estimate
from offaxis.reproduction.figures.axes import value_axis
from offaxis.reproduction.figures.beside import note_of, published_table
from offaxis.reproduction.figures.figure import (
    Evidence,
    Figure,
    Heading,
    Panel,
    Row,
    Spec,
    figure_of,
)
from offaxis.reproduction.figures.looks import Shown, label, shown
from offaxis.reproduction.figures.others import others_table
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig2",
    "Rotation of the start's subspaces, and drift of its spectrum",
    "A row for every arm. From the left: principal angles of the leading subspaces of one matrix, "
    "start against end; its singular values at the start and at the end; the largest angle of "
    "every matrix; the normalised spectral shift of every matrix. U are output sides, V input "
    "sides. The largest angle lies at the edge of a subspace, where directions of nearly equal "
    "singular values may have changed places: read it with its null, the same update with random "
    "signs.",
)
_ANGLE = Shown("principal angle", "degrees")
_COLUMNS = {
    "angles": ("angles, one matrix", _ANGLE, "rank index", ("U", "V")),
    "values": ("singular values", Shown("singular value"), "rank index", ("start", "end")),
    "largest": ("largest angle", Shown("largest angle", "degrees"), "matrix index", ("U", "V")),
    "shift": ("spectral shift", shown("spectral_shift"), "matrix index", ("NSS",)),
}
_PUBLISHED = {"angles": "fig2.angle", "largest": "fig2.max", "shift": "fig2.drift"}
_COLOURS = {"U": "#2e7fd6", "V": "#cf4a30", "start": "#5f6b7a", "end": "#12997a", "NSS": "#a566bd"}
_PAPER_ARMS = {"sft-base": "sft"}  # what the paper calls an arm, where it differs
_MOST_LINES = 12


def figure(evidence: Evidence) -> Figure:
    """Draw a row of four panels for every arm."""
    panels = [[_panel(evidence, arm, column) for column in _COLUMNS] for arm in PARADIGMS]
    quantities = ("max_angle_left", "max_angle_right", "spectral_shift")
    tables = {
        **published_table(evidence, "fig2"),
        **others_table(evidence, "fig2", (), quantities),
    }
    return figure_of(evidence, HEADING, panels, tables)


def _panel(evidence: Evidence, arm: str, column: str) -> Panel:
    said, unit, index, series = _COLUMNS[column]
    paper = _PAPER_ARMS.get(arm, "" if arm == "sft" else arm)
    published = [f"{_PUBLISHED[column]}.{paper}"] if column in _PUBLISHED and paper else []
    key = f"{arm}_{column}"
    found = [row for row in evidence.matrices if row["id"] == arm and row["what"] == column]
    rows = [{"panel": key, **row} for name in series for row in _averaged(found, name)]
    nulls = {row["null_name"] for row in found if row.get("null_name")}
    up, beyond = value_axis(rows, unit)
    title, note = f"{label(arm)}: {said}", note_of(evidence, *published)
    place = Place("fig2", key, title, note, beyond, columns=4, height=120)
    spec = {**place.frame, "layer": _layers(place, index, up, series)}
    numbers = [
        (place.title, row["arm"], f"{index} {row['x']}", *_texts(row, unit))
        for name in series
        for row in _thinned([r for r in rows if r["arm"] == name and r["kind"] == "ours"])
    ]
    return Panel(rows, spec, numbers, frozenset(nulls), (arm,))


def _averaged(rows: Sequence[Row], series: str) -> list[Row]:
    """One series over draws, and its null, index by index."""
    mine = sorted((row for row in rows if row["series"] == series), key=lambda row: row["x"])
    made: list[Row] = []
    for x, group in groupby(mine, key=lambda row: row["x"]):
        held = list(group)
        values, nulls = (
            np.array([np.nan if row[k] is None else row[k] for row in held], np.float64)
            for k in ("value", "null")
        )
        found = estimate(values, nulls)
        if found is None:
            continue
        row = {"id": held[0]["id"], "arm": series, "x": x, "matrix": held[0]["tensor"]}
        ends = {"lo": found.low, "hi": found.high, "null": found.null, "draws": found.draws}
        made.append({**row, "kind": "ours", "value": found.mean, **ends})
        if found.null is not None:
            made.append({**row, "kind": "null", "value": found.null})
    return made


def _thinned(rows: Sequence[Row]) -> Sequence[Row]:
    """About a dozen lines of a long series for a table."""
    return rows[:: max(1, len(rows) // _MOST_LINES)]


def _texts(row: Row, unit: Shown) -> tuple[str, str, str]:
    ends = f" [{number(row['lo'])}, {number(row['hi'])}]" if row["lo"] is not None else ""
    return (
        f"{number(row['value'])}{ends} {unit.unit}".rstrip(),
        number(row["null"]),
        str(row["draws"]),
    )


def _layers(place: Place, index: str, up: Spec, series: Sequence[str]) -> list[Spec]:
    across: Spec = {"field": "x", "type": "quantitative", "title": index}
    across |= {"scale": {"nice": False, "padding": 4, "zero": False}}
    across |= {"axis": {"tickCount": 4, "grid": False}}
    colour: Spec = {"field": "arm", "type": "nominal"}
    colour["scale"] = {"domain": list(series), "range": [_COLOURS[name] for name in series]}
    colour["legend"] = {
        "title": None,
        "orient": "bottom",
        "symbolType": "stroke",
        "symbolOpacity": 1,
    }
    base = {"x": across, "y": up, "color": colour}
    tips = [
        {"field": "matrix", "title": "matrix"},
        {"field": "arm", "title": "of"},
        {"field": "x", "title": index},
        {"field": "value", "title": up["title"], "format": ".3~g"},
        {"field": "null", "title": "null", "format": ".3~g"},
    ]
    return [
        {
            "transform": [place.holds("ours"), {"filter": "datum.lo !== null"}],
            "mark": {"type": "area", "opacity": 0.16, "clip": True},
            "encoding": {**base, "y": {**up, "field": "lo"}, "y2": {"field": "hi"}},
        },
        {
            "transform": [place.holds("null")],
            "mark": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1.1, "clip": True},
            "encoding": base,
        },
        {
            "transform": [place.holds("ours")],
            "mark": {"type": "line", "strokeWidth": 1.5, "point": {"size": 10, "filled": True}},
            "encoding": {**base, "tooltip": tips},
        },
    ]
