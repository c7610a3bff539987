"""What of a task is not measured yet: one job for every unit to make, or to add to."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.views import View
from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Diagnostic
from offaxis.measurement import beside, units
from offaxis.measurement.factors import Place
from offaxis.measurement.options import Pass, diagnostics
from offaxis.measurement.tasks import Series, Source, Task
from offaxis.table import definition


@dataclass(frozen=True)
class Job:
    """One unit to make, or to add to: its provenance tells what it will hold."""

    task: Task
    storage: Pass
    series: Series
    source: Source
    reader: CheckpointReader
    piece: Piece
    before: Source
    provenance: units.Provenance
    lacking: Collection[str]
    adds: bool

    @property
    def place(self) -> Place:
        """The matrix in its checkpoint."""
        return Place(self.reader, self.piece)

    @property
    def chosen(self) -> dict[str, Diagnostic]:
        """The diagnostics to read."""
        return {name: item for name, item in diagnostics().items() if name in self.lacking}

    @property
    def vectors(self) -> int:
        """How many singular vectors of the update are kept."""
        asked = self.task.options.similarity_ranks
        ranks = similarity.ranks_for(min(self.task.view.shape), asked)
        return max([*ranks, *self.provenance.ranks, 1])


def unit_path(task: Task, series: Series, source: Source, storage: str) -> Path:
    """Where a unit lies."""
    return task.results.factors(series.run, source.step, f"{task.view.label}.{storage}")


def missing(task: Task, series: Series, each: Pass) -> Iterator[Job]:
    """The units of one run that are not there, or lack something that is wanted now.

    A checkpoint deleted since it was measured keeps its place: the increment of the one after it
    began there, and is not made again from an earlier one. One that does not hold the matrix has no
    unit, and is passed over.
    """
    held = [units.provenance(unit_path(task, series, s, each.storage)) for s in series.checkpoints]
    ranks = {K for unit in held if unit is not None for K in unit.ranks}
    before = present = task.anchor
    for source, unit in zip(series.checkpoints, held, strict=True):
        if source.is_gone:
            before = source
            continue
        if (piece := series.pieces.get(source.step)) is None:
            continue
        current, names = (source, piece), _names(task.view, each.diagnostics)
        wanted = _provenance(task, each, current, present, names, ranks=ranks)
        adds = unit is not None and unit.is_of(wanted)
        if unit is None:
            lacking = names
        elif adds:
            lacking = unit.lacks(wanted, {before.digest, present.digest})
        else:  # what was measured of other weights or draws is measured again
            lacking = names | (unit.definitions.keys() & {*diagnostics(), similarity.NAME})
            wanted = _provenance(task, each, current, present, lacking, ranks=ranks)
        if lacking or not adds:
            if unit is not None and adds:
                begun = present.digest if similarity.NAME in lacking else unit.before
                together = beside.definitions(unit, wanted)
                wanted = replace(wanted, before=begun, definitions=together)
            reader = task.open(source)
            yield Job(task, each, series, source, reader, piece, present, wanted, lacking, adds)
        before = present = source


def _provenance(
    task: Task,
    each: Pass,
    current: tuple[Source, Piece],
    before: Source,
    names: Collection[str],
    *,
    ranks: Collection[int],
) -> units.Provenance:
    """What a unit with these diagnostics holds; similarity also at ranks measured before."""
    p, o = min(task.view.shape), task.options
    named: dict[str, tuple[str, ...]] = {
        name: (definition(item.version, item.resolve(p, o.overrides)),)
        for name, item in diagnostics().items()
        if name in names
    }
    if similarity.NAME in names:
        every = sorted({*similarity.ranks_for(p, o.similarity_ranks), *ranks})
        named[similarity.NAME] = tuple(definition(similarity.VERSION, {"K": K}) for K in every)
    return units.Provenance(
        anchor=task.anchor.digest,
        current=current[0].digest,
        before=before.digest,
        tensor=task.view.tensor,
        view=_cut(task.view, current[1]),
        storage=each.storage,
        dtype=current[1].dtype,
        tier=o.tier,
        draws=f"{o.draws}+{o.edge_draws}, seed {o.seed}",
        definitions=named,
    )


def _cut(view: View, current: Piece) -> str:
    """The view's label, and how it is cut out on both sides where a config has said it."""
    cuts = dict.fromkeys(piece.how for piece in (view.piece, current))
    return "; ".join((view.view, *filter(None, cuts)))


def _names(view: View, names: Collection[str]) -> set[str]:
    """The diagnostics that a view can have: of its elements alone, those that count them."""
    if view.kind == "matrix":
        return set(names)
    return {name for name, item in diagnostics().items() if name in names and item.of_elements}
