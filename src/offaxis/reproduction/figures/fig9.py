"""Figure 9: norm, tail and stable rank of the runs of Figure 7."""

from offaxis.reproduction.figures.beside import axis_note, published_table
from offaxis.reproduction.figures.fig7 import GROUPS
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, Panel, figure_of
from offaxis.reproduction.figures.looks import as_published
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig9",
    "Norm, tail and stable rank under controlled perturbations",
    "The runs of Figure 7, means over the attention matrices, as bf16 files: columns are the "
    "perturbations, rows the norm of the update, the Hill exponent of its tail, and the stable "
    "rank.",
)
_ROWS = {
    "norm": ("norm", "fig9.norm"),
    "hill": ("Hill exponent", "fig9.hill"),
    "stable_rank": ("stable rank", "fig7.rank"),
}


def figure(evidence: Evidence) -> Figure:
    """Draw three by three panels."""
    panels = [[_panel(evidence, quantity, group) for group in GROUPS] for quantity in _ROWS]
    tables = published_table(evidence, "fig9")
    return figure_of(evidence, HEADING, panels, tables)


def _panel(evidence: Evidence, quantity: str, group: str) -> Panel:
    title, arms = GROUPS[group]
    said, published = _ROWS[quantity]
    note = axis_note(evidence, f"{published}.{group}")
    place = Place("fig9", f"{quantity}_{group}", f"{title}: {said}", note, height=150)
    return over_progress(evidence, place, as_published(quantity), arms)
