"""Figure 3: where the visible update lies, on one matrix and on all."""

from offaxis.report.figures import TableView
from offaxis.report.quantities import number
from offaxis.reproduction.curves import Name
from offaxis.reproduction.entries import PARADIGMS
from offaxis.reproduction.figures.beside import published_table
from offaxis.reproduction.figures.figure import (
    Evidence,
    Figure,
    Heading,
    Panel,
    Row,
    Spec,
    figure_of,
)
from offaxis.reproduction.figures.looks import label, shown
from offaxis.reproduction.figures.one_by_one import Line, one_by_one
from offaxis.reproduction.figures.others import others_table
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig3",
    "Where the visible update lies: principal and small weights",
    "Maps: one matrix of one draw in tiles; the share of a tile's weights that changed in bf16, "
    "and of its changed weights the share in either mask. Empty tiles have no change. Global: all "
    "matrices, with the mask's share of the weights as the dotted line. The null, an update "
    "without structure through the same rounding, says what an overlap means, not the dotted "
    "line: rounding hides moves of large weights whatever the training.",
)
COLUMNS = {"update_density": 100, "principal_overlap": 50, "low_magnitude_overlap": 100}
"""The quantities, each with the upper end of its colours in per cent."""

_SIDE = 170


def figure(evidence: Evidence) -> Figure:
    """Draw a row of maps for every arm, and a global one."""
    maps = [[_map(evidence, arm, what) for what in COLUMNS] for arm in PARADIGMS]
    panels = [*maps, [_global(evidence, what) for what in COLUMNS]]
    tables = {
        **published_table(evidence, "fig3"),
        **others_table(evidence, "fig3", PARADIGMS, tuple(COLUMNS)),
        **_tiles(evidence),
    }
    return figure_of(evidence, HEADING, panels, tables)


def _global(evidence: Evidence, what: str) -> Panel:
    published = {
        each.arm: each.value
        for each in evidence.numbers.values()
        if each.figure == "fig3" and each.quantity == what
    }
    lines = [Line(arm, label(arm), published.get(arm)) for arm in PARADIGMS]
    place = Place("fig3", what, f"Global: {shown(what).label}", room=110)
    baseline = None if what == "update_density" else evidence.numbers["fig3.baseline"].value
    return one_by_one(evidence, place, Name(what, "linear", "stored"), lines, baseline)


def _map(evidence: Evidence, arm: str, what: str) -> Panel:
    """One map; its rows have no kind but their own, and no arm that could be missing."""
    key = f"{arm}_{what}"
    rows: list[Row] = [
        {"panel": key, "kind": "tile", **tile, "value": 100 * tile["value"]}
        for tile in evidence.maps
        if tile["id"] == arm and tile["what"] == what
    ]
    width, height = (max((row[end] for row in rows), default=1) for end in ("x2", "y2"))
    place = Place("fig3", key, f"{label(arm)}: {shown(what).label}", has_notes=False)
    title = {**place.frame["title"], "limit": _SIDE + 90}
    spec: Spec = {
        "width": _SIDE,
        "height": round(_SIDE * min(1.0, height / width)),
        "title": title,
        "transform": [place.holds("tile")],
        "mark": {"type": "rect"},
        "encoding": {
            "x": _side("x", "column", [0, width]),
            "x2": {"field": "x2"},
            "y": _side("y", "row", [height, 0]),
            "y2": {"field": "y2"},
            "color": {
                "field": "value",
                "type": "quantitative",
                "scale": {"scheme": "viridis", "domain": [0, COLUMNS[what]], "clamp": True},
                "legend": {"title": "%", "gradientLength": 120},
            },
            "tooltip": [{"field": "value", "title": "%", "format": ".3~g"}],
        },
    }
    return Panel(rows, spec, [])


def _side(field: str, title: str, domain: list[int]) -> Spec:
    axis = {"tickCount": 4, "grid": False}
    scale = {"domain": domain, "nice": False}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _tiles(evidence: Evidence) -> dict[str, TableView]:
    """What the maps show as a table: the tiles' mean and range."""
    lines = []
    for arm in PARADIGMS:
        for what in COLUMNS:
            tiles = [t for t in evidence.maps if t["id"] == arm and t["what"] == what]
            if not tiles:
                continue
            values = [100 * tile["value"] for tile in tiles]
            found = (sum(values) / len(values), min(values), max(values))
            texts = (f"{number(value)} %" for value in found)
            lines.append((label(arm), shown(what).label, tiles[0]["tensor"], *texts))
    head = ("arm", "map", "matrix", "mean of the tiles", "lowest", "highest")
    return {"The maps": TableView(head, tuple(lines))} if lines else {}
