"""Figure 7: stable rank of OPD on fewer tokens, on others' rollouts, and mixed with RLVR."""

from offaxis.reproduction.curves import Name
from offaxis.reproduction.figures.beside import axis_note, published_table
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, Panel, figure_of
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place

HEADING = Heading(
    "fig7",
    "Stable rank of OPD under controlled perturbations",
    "Means over the attention matrices: as bf16 files, as published, and below as the float32 "
    "files have them. (b) has arms that the paper lacks: rollouts of the anchor, and of the "
    "student some optimizer steps ago. In (c) OPD's share of the advantage is alpha; at alpha = 1 "
    "the gradient is that of the sampled token alone.",
)
GROUPS = {
    "a": (
        "(a) Fewer tokens",
        ("opd", *(f"opd-keep{share}-{by}" for share in (25, 50) for by in ("ratio", "random"))),
    ),
    "b": (
        "(b) Rollouts",
        (
            "opd",
            "opd-from-teacher",
            "opd-from-anchor",
            "opd-stale-2",
            "opd-stale-8",
            "opd-stale-32",
        ),
    ),
    "c": (
        "(c) Mixed with RLVR",
        (
            *("opd", "opd-sampled", "rlvr", "mixed-50-normed"),
            *(f"mixed-{share}-advantages" for share in (75, 50, 25, 5, 1)),
        ),
    ),
}
"""The panels of figures 7 and 9, by their letter."""


def figure(evidence: Evidence) -> Figure:
    """Draw the stable rank of every group, in two storages."""
    panels = [[_panel(evidence, group, storage) for group in GROUPS] for storage in STORAGE]
    tables = published_table(evidence, "fig7")
    return figure_of(evidence, HEADING, panels, tables)


STORAGE = {"bf16": "bf16 files", "stored": "float32 files"}


def _panel(evidence: Evidence, group: str, storage: str) -> Panel:
    title, arms = GROUPS[group]
    note = axis_note(evidence, f"fig7.rank.{group}") if storage == "bf16" else ""
    place = Place("fig7", f"{group}_{storage}", f"{title}, {STORAGE[storage]}", note)
    return over_progress(evidence, place, Name("stable_rank", "attention", storage), arms)
