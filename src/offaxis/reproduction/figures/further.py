"""What stands in the study table and in no figure: one line a number, with its null."""

from offaxis.report.figures import TableView
from offaxis.reproduction.claims import Cell
from offaxis.reproduction.curves import QUANTITIES, Name
from offaxis.reproduction.figures.averages import Averages
from offaxis.reproduction.figures.looks import SHOWN, shown

_EARLY = ("sec5.2",)
"""Entries that read gradients at the early checkpoint; the others read ends and edited weights."""

_DERIVED = ("gain", "stable_rank_change", "effective_rank_change", "hill_change")
_KINDS = ("attention", "mlp")  # parts of `linear`, which is shown


def further_table(study: Averages, entry: str) -> dict[str, TableView]:
    """The numbers of an entry that has no figure; no table where nothing of it was measured."""
    lines = []
    for cell in sorted(study.cells):
        name = Name(cell.quantity, cell.matrices, cell.precision)
        found = study.at(cell.arm, name, cell.point)
        if found is None or cell.matrices in _KINDS or not _belongs(study, cell, entry in _EARLY):
            continue
        said = shown(cell.quantity)
        place = (cell.quantity, cell.arm, cell.point, cell.precision)
        lines.append((*place, said.text(found), said.null_text(found), str(found.draws)))
    head = ("quantity", "arm", "point", "storage", "ours [interval]", "null", "draws")
    return {"Numbers": TableView(head, tuple(sorted(lines)))} if lines else {}


def _belongs(study: Averages, cell: Cell, is_early: bool) -> bool:
    """Whether a number is one that no figure shows, of the entries that read at its point."""
    if cell.point.startswith("step=") or cell.point.endswith(("=matched", "=matched-long")):
        return False
    is_drawn = cell.quantity in (*SHOWN, *QUANTITIES.values(), *_DERIVED)
    if cell.point == "early":
        return is_early and not is_drawn and cell._replace(point="end") not in study.cells
    return not is_early and (not is_drawn or cell.point != "end")
