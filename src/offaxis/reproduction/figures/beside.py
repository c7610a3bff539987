"""The published numbers of a figure, and ours beside them."""

from offaxis.report.figures import TableView
from offaxis.report.quantities import MISSING
from offaxis.reproduction.figures.figure import Evidence
from offaxis.reproduction.figures.looks import as_published, shown
from offaxis.reproduction.published import PublishedNumber

PUBLISHED_TABLE = "Published, and ours"

_FIRST = ".first"
"""What ends the name of a number of the first checkpoint; others are of the last one."""


def published_table(evidence: Evidence, figure: str) -> dict[str, TableView]:
    """Every published number of a figure with its place, and what of ours answers to it."""
    lines = tuple(
        (number.what, number.text, number.where, _ours(evidence, number))
        for number in evidence.numbers.values()
        if number.figure == figure
    )
    head = ("published", "value", "where", "ours [interval]")
    return {PUBLISHED_TABLE: TableView(head, lines)} if lines else {}


def note_of(evidence: Evidence, *names: str) -> str:
    """Some published numbers as one line for a panel; those that are not there are passed over."""
    found = [evidence.numbers[name].text for name in names if name in evidence.numbers]
    return f"published: {', '.join(found)}" if found else ""


def axis_note(evidence: Evidence, name: str) -> str:
    """The published axis of a panel as one line for it."""
    return f"published axis: {evidence.numbers[name].text}"


def of_the_chart(
    evidence: Evidence, figure: str, quantity: str, arms: tuple[str, ...]
) -> list[tuple[str, PublishedNumber]]:
    """The single numbers that a chart of a quantity can show beside ours, with their arms."""
    return [
        (number.arm, number)
        for number in evidence.numbers.values()
        if number.figure == figure
        and number.quantity == quantity
        and number.arm in arms
        and number.value is not None
        and number.unit != "points"  # of another benchmark than ours
        and not number.id.endswith(_FIRST)
    ]


def _ours(evidence: Evidence, number: PublishedNumber) -> str:
    if not (number.arm and number.quantity):
        return MISSING
    point = "early" if number.id.endswith(_FIRST) else "end"
    name = as_published(number.quantity)
    return shown(number.quantity).text(evidence.study.at(number.arm, name, point))
