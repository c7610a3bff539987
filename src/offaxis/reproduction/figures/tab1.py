"""Table 1: the weights that bf16 does not see move, in every pair of checkpoints."""

from offaxis.report.figures import TableView
from offaxis.report.quantities import MISSING
from offaxis.reproduction.curves import Name
from offaxis.reproduction.entries import ENTRIES
from offaxis.reproduction.figures.figure import Evidence, Figure, Heading, Panel, figure_of
from offaxis.reproduction.figures.looks import as_published, label, shown
from offaxis.reproduction.figures.one_by_one import Line, one_by_one
from offaxis.reproduction.figures.others import others_table
from offaxis.reproduction.figures.place import Place
from offaxis.reproduction.public_pairs import ARM, load_pairs
from offaxis.reproduction.published import PublishedNumber

HEADING = Heading(
    "tab1",
    "Update sparsity: paradigms, variants and public checkpoints",
    "Share of the linear layers' weights whose bf16 value stays the same from start to end. The "
    "null is an update of the same size without structure, through the same rounding: on it, size "
    "alone explains the sparsity. SFT from the anchor has no published counterpart: it starts "
    "where OPD and RLVR start, at their learning rate.",
)
_SPARSITY = Name("sparsity", "linear", "stored")
_CONTROLLED = ("sft-base", "sft", "opd", "rlvr")
_SHAPE = ("sparsity", "norm", "hill", "stable_rank", "spectral_shift")


def figure(evidence: Evidence) -> Figure:
    """Draw the controlled arms, the variants of OPD, and the public pairs."""
    published = {each.arm: each for each in _published(evidence) if each.arm}
    variants = [arm for arm in published if arm not in _CONTROLLED]
    panels = [
        [_panel(evidence, "controlled", "Controlled comparison", _lines(published, _CONTROLLED))],
        [_panel(evidence, "variants", "Variants of OPD", _lines(published, variants))],
        [_panel(evidence, "public", "Public checkpoints", _public())],
    ]
    tables = {
        "Table 1": _table(evidence),
        **others_table(evidence, "tab1", _CONTROLLED, _SHAPE),
    }
    return figure_of(evidence, HEADING, panels, tables)


def _panel(evidence: Evidence, key: str, title: str, lines: list[Line]) -> Panel:
    return one_by_one(evidence, Place("tab1", key, title, columns=1, room=330), _SPARSITY, lines)


def _published(evidence: Evidence) -> list[PublishedNumber]:
    """The numbers of the paper's own runs."""
    arms = (*ENTRIES["tab1"].headline, *ENTRIES["tab1"].further)
    return [
        number
        for number in evidence.numbers.values()
        if number.figure == "tab1" and number.place == "Table 1" and number.arm in ("", *arms)
    ]


def _lines(published: dict[str, PublishedNumber], arms: tuple[str, ...] | list[str]) -> list[Line]:
    return [
        Line(arm, label(arm), published[arm].value if arm in published else None) for arm in arms
    ]


def _public() -> list[Line]:
    return [Line(ARM + pair.id, pair.tuned, pair.published) for pair in load_pairs().values()]


def _table(evidence: Evidence) -> TableView:
    """Every line of Table 1 with ours beside it."""
    pairs = {pair.published: ARM + pair.id for pair in load_pairs().values()}
    lines = []
    for number in _published(evidence):
        arm = number.arm or pairs.get(number.value or 0.0, "")
        found = evidence.study.at(arm, as_published("sparsity"))
        said = shown("sparsity")
        draws = MISSING if found is None else str(found.draws)
        line = (number.what, arm or MISSING, number.text, said.text(found))
        lines.append((*line, said.null_text(found), draws))
    head = ("pair", "arm of ours", "published", "ours [interval]", "null", "draws")
    return TableView(head, tuple(lines))
