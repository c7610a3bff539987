"""A panel of curves over training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from offaxis.report.quantities import number
from offaxis.reproduction.curves import Name
from offaxis.reproduction.figures.axes import value_axis
from offaxis.reproduction.figures.beside import of_the_chart
from offaxis.reproduction.figures.figure import Evidence, Panel, Row, Spec
from offaxis.reproduction.figures.looks import Shown, shown
from offaxis.reproduction.figures.place import Place, colour

PROGRESS = "training progress (%)"


def over_progress(
    evidence: Evidence,
    place: Place,
    name: Name,
    arms: Sequence[str],
    starts: Mapping[str, float] | None = None,
) -> Panel:
    """Draw a quantity over training: means, intervals between draws, nulls, published ends.

    Args:
        evidence: Where the numbers are.
        place: Of the panel.
        name: What is drawn.
        arms: Whose curves.
        starts: Where in the other runs' way an arm begins, in [0, 1), if not at 0.
    """
    said = shown(name.quantity)
    rows = [
        row
        for arm in arms
        for row in _curve(evidence, place, name, arm, (starts or {}).get(arm, 0.0))
    ]
    there = [arm for arm in arms if any(row["id"] == arm for row in rows)]
    rows += [
        {**place.row("published", arm), "x": 100.0, "value": each.value, "where": each.where}
        for arm, each in of_the_chart(evidence, place.figure, name.quantity, tuple(there))
    ]
    up, beyond = value_axis(rows, said)
    place = replace(place, beyond="; ".join(filter(None, (beyond, _of_fewer_draws(rows)))))
    across: Spec = {
        "field": "x",
        "type": "quantitative",
        "title": PROGRESS,
        "scale": {"domain": [0, 100], "nice": False, "padding": 4},
        "axis": {"values": [0, 20, 40, 60, 80, 100], "grid": False},
    }
    spec = {**place.frame, "layer": _layers(place, across, up, colour(there), said)}
    numbers = [
        (
            place.title,
            row["arm"],
            f"{row['x']:.0f} %",
            _with_ends(row, said),
            _null_text(row, said),
            str(row["draws"]),
        )
        for row in rows
        if row["kind"] == "ours"
    ]
    nulls = frozenset(evidence.study.null_names(name, there))
    return Panel(rows, spec, numbers, nulls, tuple(arms))


def _curve(evidence: Evidence, place: Place, name: Name, arm: str, start: float) -> Iterable[Row]:
    said = shown(name.quantity)
    for progress, found in evidence.study.along(arm, name, log=said.log):
        across = 100 * (start + (1 - start) * progress)
        if found.mean <= 0 and said.log:
            continue
        ends = {
            key: None if end is None else said.factor * end
            for key, end in (("lo", found.low), ("hi", found.high), ("null", found.null))
        }
        row = {"x": across, "value": said.factor * found.mean, "draws": found.draws, **ends}
        yield {**place.row("ours", arm), **row}
        null = ends["null"]
        if null is not None and (null > 0 or not said.log):
            yield {**place.row("null", arm), "x": across, "value": null}


def _of_fewer_draws(rows: Iterable[Row]) -> str:
    """Which curves are of fewer draws than the others of their panel, whose levels may differ."""
    draws: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "ours":
            draws[row["arm"]] = max(row["draws"], draws.get(row["arm"], 0))
    most = max(draws.values(), default=0)
    fewer: dict[int, list[str]] = {}
    for arm, count in draws.items():
        if count < most:
            fewer.setdefault(count, []).append(arm)
    return "; ".join(
        f"{count} of {most} draws: {arms[0] if len(arms) == 1 else f'{len(arms)} curves'}"
        for count, arms in sorted(fewer.items())
    )


def _with_ends(row: Row, said: Shown) -> str:
    text = number(row["value"])
    if row["lo"] is not None:
        text += f" [{number(row['lo'])}, {number(row['hi'])}]"
    return f"{text} {said.unit}".rstrip()


def _null_text(row: Row, said: Shown) -> str:
    return f"{number(row['null'])} {said.unit}".rstrip()


def _layers(place: Place, across: Spec, up: Spec, arm: Spec, said: Shown) -> list[Spec]:
    base = {"x": across, "y": up, "color": arm}
    ends = {"lo": "interval from", "hi": "to"}
    tips = [
        {"field": "arm", "title": "arm"},
        {"field": "x", "title": PROGRESS, "format": ".0f"},
        {"field": "value", "title": said.axis, "format": ".3~g"},
        *({"field": key, "title": title, "format": ".3~g"} for key, title in ends.items()),
        {"field": "null", "title": "null", "format": ".3~g"},
        {"field": "draws", "title": "draws"},
    ]
    diamond: Spec = {"type": "point", "shape": "diamond", "size": 80, "strokeWidth": 1.8}
    published = [{"field": "arm", "title": "arm"}, {"field": "value", "title": "published"}]
    return [
        {
            "transform": [place.holds("ours"), {"filter": "datum.lo !== null"}],
            "mark": {"type": "area", "opacity": 0.16, "clip": True},
            "encoding": {**base, "y": {**up, "field": "lo"}, "y2": {"field": "hi"}},
        },
        {
            "transform": [place.holds("null")],
            "mark": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1.2, "clip": True},
            "encoding": base,
        },
        {
            "transform": [place.holds("ours")],
            "mark": {"type": "line", "strokeWidth": 1.8, "point": {"size": 18, "filled": True}},
            "encoding": {**base, "tooltip": tips},
        },
        {
            "transform": [place.holds("published")],
            "mark": {**diamond, "clip": True},
            "encoding": {**base, "tooltip": [*published, {"field": "where", "title": "where"}]},
        },
    ]
