"""Where a panel stands in its figure, and the colours of its arms."""

from collections.abc import Sequence
from dataclasses import dataclass

from offaxis.report.charts import TOTAL_WIDTH
from offaxis.reproduction.figures.figure import Row, Spec
from offaxis.reproduction.figures.looks import colours, label

_GAP = 18


@dataclass(frozen=True)
class Place:
    """Where a panel stands, and what it is called.

    Attributes:
        figure: The figure's name.
        key: The panel's, once a figure.
        title: Above it.
        note: Below the title: what was published.
        beyond: Below the note: what the axis has no room for.
        has_notes: Whether panels of its row have such lines.
        columns: How many panels share its row.
        height: Of the plot.
        room: Beside the plot, for the labels of its axis.
    """

    figure: str
    key: str
    title: str
    note: str = ""
    beyond: str = ""
    has_notes: bool = True
    columns: int = 3
    height: int = 190
    room: int = 66

    @property
    def width(self) -> int:
        """Of the plot, so that the row has the page's width."""
        return (TOTAL_WIDTH - _GAP * (self.columns - 1)) // self.columns - self.room

    @property
    def frame(self) -> Spec:
        """The sides and the title of its chart."""
        title: Spec = {"text": self.title, "anchor": "start", "limit": self.width + self.room}
        if self.has_notes:
            # Two lines in every panel, so that the plots of a row stand at one height.
            title["subtitle"] = [self.note or " ", self.beyond or " "]
        return {"width": self.width, "height": self.height, "title": title}

    def holds(self, kind: str) -> Spec:
        """The transform that takes its rows of one kind."""
        return {"filter": f"datum.panel === '{self.key}' && datum.kind === '{kind}'"}

    def row(self, kind: str, arm: str) -> Row:
        """What begins every row of its data."""
        return {"panel": self.key, "kind": kind, "id": arm, "arm": label(arm)}


def colour(arms: Sequence[str], *, legend: bool = True) -> Spec:
    """The encoding that gives every arm of a panel its colour."""
    chosen = colours(arms)
    return {
        "field": "arm",
        "type": "nominal",
        "scale": {"domain": [label(arm) for arm in arms], "range": [chosen[arm] for arm in arms]},
        "legend": {
            "title": None,
            "orient": "bottom",
            "columns": 2,
            "symbolType": "stroke",
            "symbolStrokeWidth": 3,
            "symbolOpacity": 1,
            "labelLimit": 150,
        }
        if legend
        else None,
    }
