"""Figure 8: the constrained runs by everything that judges a model."""

from offaxis.reproduction.curves import Name
from offaxis.reproduction.extract import EARLY
from offaxis.reproduction.figures.beside import published_table
from offaxis.reproduction.figures.fig6 import FREE, constrained
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, Panel, figure_of
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig8",
    "The runs of Figure 6 by accuracy and by distance",
    "The paper has five benchmarks here, which its models are needed for; ours are what the "
    "laboratory judges a model by. A row of panels for each objective. Distances, in outputs and "
    "in weights, are from each run's own start: the anchor or base for free runs, the checkpoint "
    "at a fifth of the way for the others.",
)
_JUDGES = {"accuracy": "accuracy", "forward_kl_nats": "distance in outputs"}


def figure(evidence: Evidence) -> Figure:
    """Draw a row for every free run, a column for every judge that was asked."""
    panels = [[_panel(evidence, free, quantity) for quantity in _judges(evidence)] for free in FREE]
    tables = published_table(evidence, "fig8")
    return figure_of(evidence, HEADING, panels, tables)


def _judges(evidence: Evidence) -> dict[str, str]:
    """The quantities of the columns, with their titles: benchmarks of their own where there are."""
    arms = {*FREE, *(arm for free in FREE for arm in constrained(free))}
    sampled = {
        cell.quantity
        for cell in evidence.study.cells
        if cell.arm in arms and cell.quantity.startswith(("avg@", "pass@"))
    }
    return {**_JUDGES, "norm": "distance in weights", **{name: name for name in sorted(sampled)}}


def _panel(evidence: Evidence, free: str, quantity: str) -> Panel:
    judges = _judges(evidence)
    others = constrained(free)
    title = f"{FREE[free]}: {judges[quantity]}"
    place = Place("fig8", f"{free}_{quantity}", title, columns=min(len(judges), 4), height=150)
    name = Name(quantity, "linear", "stored")
    return over_progress(evidence, place, name, (free, *others), dict.fromkeys(others, EARLY))
