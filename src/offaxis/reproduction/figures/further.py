"""What stands in the study table and in no figure: one line a number, with its null."""

from offaxis.report.figures import TableView
from offaxis.reproduction.claims import Cell
from offaxis.reproduction.curves import QUANTITIES, Name
from offaxis.reproduction.entries import Entry
from offaxis.reproduction.figures.averages import Averages
from offaxis.reproduction.figures.looks import SHOWN, shown
from offaxis.reproduction.probes import PROBES

_DERIVED = ("gain", "stable_rank_change", "effective_rank_change", "hill_change")
_KINDS = ("attention", "mlp")  # parts of `linear`, which is shown


def further_table(study: Averages, entry: Entry) -> dict[str, TableView]:
    """The numbers of an entry that has no figure; no table where nothing of it was measured."""
    arms, lines = _arms(entry), []
    for cell in study.cells:
        if cell.arm not in arms or cell.matrices in _KINDS or _is_elsewhere(study, cell):
            continue
        name = Name(cell.quantity, cell.matrices, cell.precision)
        found, said = study.at(cell.arm, name, cell.point), shown(cell.quantity)
        if found is not None:
            place = (cell.quantity, cell.arm, cell.point, cell.precision)
            lines.append((*place, said.text(found), said.null_text(found), str(found.draws)))
    head = ("quantity", "arm", "point", "storage", "ours [interval]", "null", "draws")
    return {"Numbers": TableView(head, tuple(sorted(lines)))} if lines else {}


def _arms(entry: Entry) -> frozenset[str]:
    """The arms of its numbers: those that its probes give, and its own if one answers of these."""
    probes = [PROBES[name] for name in entry.probes]
    given = frozenset(arm for probe in probes for arm in probe.gives)
    if all(probe.gives for probe in probes):
        return given
    return given | {*entry.headline, *entry.further}


def _is_elsewhere(study: Averages, cell: Cell) -> bool:
    """Whether a number is on the way, at a matched point, or what a figure shows at the end."""
    if cell.point.startswith("step=") or cell.point.endswith(("=matched", "=matched-long")):
        return True
    if cell.point == "early" and cell._replace(point="end") in study.cells:
        return True
    is_drawn = cell.quantity in (*SHOWN, *QUANTITIES.values(), *_DERIVED)
    return is_drawn and cell.point == "end"
