"""The arms of an entry that its chart has no room for, at the end of their way."""

from collections.abc import Sequence

from offaxis.report.figures import TableView
from offaxis.reproduction.entries import ENTRIES
from offaxis.reproduction.figures.figure import Evidence
from offaxis.reproduction.figures.looks import as_published, shown


def others_table(
    evidence: Evidence, entry: str, drawn: Sequence[str], quantities: Sequence[str]
) -> dict[str, TableView]:
    """A line an arm that was run and is not drawn; no table where there is none.

    Args:
        evidence: Where the numbers are.
        entry: Whose arms.
        drawn: Those that the chart shows.
        quantities: The columns, each read as the paper does.
    """
    arms = [*ENTRIES[entry].headline, *ENTRIES[entry].further]
    lines = []
    for arm in dict.fromkeys(arms):
        if arm in drawn or arm not in evidence.study.arms:
            continue
        found = [evidence.study.at(arm, as_published(quantity)) for quantity in quantities]
        draws = max((each.draws for each in found if each is not None), default=0)
        texts = [shown(q).text(each) for q, each in zip(quantities, found, strict=True)]
        lines.append((arm, *texts, str(draws)))
    head = ("arm", *(shown(quantity).label for quantity in quantities), "draws")
    return {"Other arms, at the end": TableView(head, tuple(lines))} if lines else {}
