"""A figure: panels in the paper's layout, one data set, and the same numbers as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from offaxis.report.charts import SCHEMA
from offaxis.report.figures import TableView
from offaxis.reproduction.figures.averages import Averages
from offaxis.reproduction.published import PublishedNumber

Row = dict[str, Any]
Spec = dict[str, Any]

NUMBERS_HEAD = ("panel", "arm", "progress", "ours [interval]", "null", "draws")


@dataclass(frozen=True)
class Evidence:
    """All that figures are made of.

    Attributes:
        study: The study table, over draws.
        numbers: The published numbers.
        matrices: Readings of single matrices, as `single_matrices` has them.
        maps: Where the update of one matrix lies, as `local_masks` has it.
    """

    study: Averages
    numbers: Mapping[str, PublishedNumber]
    matrices: Sequence[Row] = ()
    maps: Sequence[Row] = ()


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        rows: Its data, every row with `panel`; empty where nothing of it was measured.
        spec: Its chart, which takes its own rows out of the figure's.
        numbers: What it shows, as `NUMBERS_HEAD`.
        nulls: The names of its nulls.
        arms: Those that it would show.
    """

    rows: list[Row]
    spec: Spec
    numbers: Sequence[tuple[str, ...]]
    nulls: frozenset[str] = frozenset()
    arms: tuple[str, ...] = ()


class Heading(NamedTuple):
    """The name of a figure in the paper, what it shows, and how to read it."""

    id: str
    title: str
    caption: str


@dataclass(frozen=True)
class Figure:
    """One table or figure of the paper.

    Attributes:
        heading: Its name, title and caption.
        spec: The chart over `rows`; empty where nothing was measured.
        rows: Its data.
        tables: Its numbers, by caption.
        nulls: The names of its nulls.
        notes: What is missing.
    """

    heading: Heading
    spec: Spec
    rows: list[Row]
    tables: Mapping[str, TableView]
    nulls: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def laid_out(panels: Sequence[Sequence[Panel]]) -> Spec:
    """Put panels into rows; those without data are left out, and so are rows without panels."""
    rows = [[panel.spec for panel in row if panel.rows] for row in panels]
    apart = {"scale": {"color": "independent"}, "legend": {"color": "independent"}}
    across = [{"hconcat": row, "spacing": 18, "resolve": apart} for row in rows if row]
    if not across:
        return {}
    return {"$schema": SCHEMA, "vconcat": across, "spacing": 22, "resolve": apart}


def missing(evidence: Evidence, panels: Sequence[Sequence[Panel]]) -> tuple[str, ...]:
    """Say which arms of a figure were not run, and which were run without what it shows."""
    arms = dict.fromkeys(arm for row in panels for panel in row for arm in panel.arms)
    absent = [arm for arm in arms if arm not in evidence.study.arms]
    shown = {each["id"] for row in panels for panel in row for each in panel.rows}
    empty = [arm for arm in arms if arm not in absent and arm not in shown]
    said = []
    if absent:
        said.append(f"not run: {', '.join(absent)}")
    if empty:
        said.append(f"run, but not measured for this: {', '.join(empty)}")
    return tuple(said)


def figure_of(
    evidence: Evidence,
    heading: Heading,
    panels: Sequence[Sequence[Panel]],
    tables: Mapping[str, TableView],
) -> Figure:
    """Join panels, in their layout, into a figure with its tables."""
    each = [panel for row in panels for panel in row]
    numbers = TableView(NUMBERS_HEAD, tuple(line for panel in each for line in panel.numbers))
    return Figure(
        heading=heading,
        spec=laid_out(panels),
        rows=[row for panel in each for row in panel.rows],
        tables={**tables, "Numbers of the chart": numbers},
        nulls=tuple(sorted(set[str]().union(*(panel.nulls for panel in each)))),
        notes=missing(evidence, panels),
    )
