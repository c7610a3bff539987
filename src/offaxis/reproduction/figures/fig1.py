"""Figure 1: stable rank over training, the inset of the overview."""

from offaxis.reproduction.entries import PARADIGMS
from offaxis.reproduction.figures.beside import axis_note
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, figure_of
from offaxis.reproduction.figures.looks import as_published
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig1",
    "Overview: stable rank over training",
    "The paper's Figure 1 is a drawing with one inset: the stable rank of the update, which is "
    "Figure 4a. Mean over the attention matrices, read as bf16 files.",
)


def figure(evidence: Evidence) -> Figure:
    """Draw the inset alone."""
    note = axis_note(evidence, "fig4.rank.axis")
    place = Place("fig1", "inset", "Stable rank of the update", note, columns=2)
    panels = [[over_progress(evidence, place, as_published("stable_rank"), PARADIGMS)]]
    return figure_of(evidence, HEADING, panels, {})
