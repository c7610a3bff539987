"""Figure 4: stable rank, norm and tail of the update over training."""

from offaxis.reproduction.curves import Name
from offaxis.reproduction.entries import PARADIGMS
from offaxis.reproduction.figures.beside import axis_note, published_table
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, Panel, figure_of
from offaxis.reproduction.figures.others import others_table
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig4",
    "Stable rank, norm and tail of the update over training",
    "Means over the attention matrices. Upper row: the checkpoints as bf16 files show them, as "
    "published; lower row: as the float32 files have them. Where the rows differ, rounding "
    "speaks, not training. Published ends of the norm and the Hill exponent are of a draft.",
)
_QUANTITIES = {
    "stable_rank": ("(a) Stable rank", "fig4.rank.axis"),
    "norm": ("(b) Norm of the update", ""),
    "hill": ("(c) Hill exponent", "fig4.hill.axis"),
}
_STORAGE = {"bf16": "bf16 files", "stored": "float32 files"}


def figure(evidence: Evidence) -> Figure:
    """Draw three quantities in two storages."""
    panels = [
        [_panel(evidence, quantity, storage) for quantity in _QUANTITIES] for storage in _STORAGE
    ]
    tables = {
        **published_table(evidence, "fig4"),
        **others_table(evidence, "fig4", PARADIGMS, tuple(_QUANTITIES)),
    }
    return figure_of(evidence, HEADING, panels, tables)


def _panel(evidence: Evidence, quantity: str, storage: str) -> Panel:
    title, published = _QUANTITIES[quantity]
    note = axis_note(evidence, published) if published else ""
    key = f"{quantity}_{storage}"
    place = Place("fig4", key, f"{title}, {_STORAGE[storage]}", note if storage == "bf16" else "")
    return over_progress(evidence, place, Name(quantity, "attention", storage), PARADIGMS)
