"""Figure 5: how early the leading directions of the update are the final ones."""

from offaxis.reproduction.curves import Name
from offaxis.reproduction.entries import PARADIGMS
from offaxis.reproduction.figures.beside import axis_note, published_table
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, figure_of
from offaxis.reproduction.figures.looks import as_published
from offaxis.reproduction.figures.others import others_table
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig5",
    "Similarity of the update's directions to the final ones",
    "Share of the 16 leading right directions of the update at the end that its 16 leading ones "
    "hold by then. It ends at 1 for any process, as the end contains its beginning: only the "
    "height above the dashed random walk says that directions were fixed early. Increments, on "
    "the right, share nothing by construction.",
)


def figure(evidence: Evidence) -> Figure:
    """Draw the similarity as published, that which the claim reads, and that of increments."""
    note = axis_note(evidence, "fig5.axis")
    drawn = {
        "published": ("Attention, bf16 files", note, as_published("similarity")),
        "stored": ("All matrices, float32 files", "", Name("similarity", "linear", "stored")),
        "increments": ("Increments", "", Name("increment_similarity", "linear", "stored")),
    }
    panels = [
        [
            over_progress(evidence, Place("fig5", key, title, said), name, PARADIGMS)
            for key, (title, said, name) in drawn.items()
        ]
    ]
    tables = {
        **published_table(evidence, "fig5"),
        **others_table(evidence, "fig5", PARADIGMS, ("similarity",)),
    }
    return figure_of(evidence, HEADING, panels, tables)
