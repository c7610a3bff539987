"""Figure 6: training inside sixteen directions."""

from offaxis.reproduction.curves import Name
from offaxis.reproduction.entries import ENTRIES
from offaxis.reproduction.extract import EARLY
from offaxis.reproduction.figures.beside import note_of, published_table
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, Panel, figure_of
from offaxis.reproduction.figures.one_by_one import Line, one_by_one
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig6",
    "Training inside sixteen directions",
    "Accuracy of free runs, and of those that go on from a fifth of the way inside 16 directions "
    "of each matrix: those of their own update so far (early) and others of the same number. Ours "
    "is greedy accuracy on the laboratory's problems, the published one AIME 2024: levels are not "
    "to be compared, only what the constraint changes. Below: the share of the free run's further "
    "gain that each constrained run has.",
)
FREE = {"opd": "OPD", "sft-base": "SFT from base", "sft": "SFT from the anchor"}
BASES = ("k16-early", "k16-random", "k16-gradient", "frozen")
_PUBLISHED = {"opd": ("fig6.opd-k16", "fig6.opd"), "sft-base": ("fig6.sft-k16", "fig6.sft")}


def constrained(free: str) -> tuple[str, ...]:
    """The arms that go on from a free one at a fifth of its way."""
    return tuple(f"{free}-{basis}" for basis in BASES if f"{free}-{basis}" in _ARMS)


_ARMS = (*ENTRIES["fig6"].headline, *ENTRIES["fig6"].further)


def figure(evidence: Evidence) -> Figure:
    """Draw accuracy over the way of the free run, and the gain kept of every constrained one."""
    panels = [[_panel(evidence, free) for free in FREE], [_kept(evidence)]]
    tables = published_table(evidence, "fig6")
    return figure_of(evidence, HEADING, panels, tables)


def _panel(evidence: Evidence, free: str) -> Panel:
    published = note_of(evidence, *_PUBLISHED.get(free, ()))
    note = f"{published} (rank 16, free; AIME 2024)" if published else ""
    others = constrained(free)
    place = Place("fig6", free, FREE[free], note)
    starts = dict.fromkeys(others, EARLY)
    return over_progress(
        evidence, place, Name("accuracy", "linear", "stored"), (free, *others), starts
    )


def _kept(evidence: Evidence) -> Panel:
    arms = [Line(arm, arm) for arm in _ARMS if arm not in FREE]
    title = "Gain kept, of the free run's after the same start"
    place = Place("fig6", "kept", title, columns=1, room=170)
    return one_by_one(evidence, place, Name("gain_kept", "linear", "stored"), arms, baseline=100.0)
