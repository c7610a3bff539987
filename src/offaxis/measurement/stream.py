"""Matrices outside, checkpoints inside: the anchor is factored once and serves every checkpoint."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.quantised import is_quantised
from offaxis.checkpoints.views import View
from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Diagnostic, Tier
from offaxis.engine import (
    Factors,
    PreparedAnchor,
    Stored,
    evaluate,
    leading_factors,
    leading_of_step,
    prepare,
    request_for,
)
from offaxis.errors import CheckpointError
from offaxis.linalg import rounding
from offaxis.measurement import beside, cost, units
from offaxis.measurement.ahead import Reader, ahead, worth_it
from offaxis.measurement.factors import Place
from offaxis.measurement.options import Options, Pass, diagnostics
from offaxis.table import ResultsFolder, definition

_STRETCH = 1 << 18  # entries looked at at a time


class Source(NamedTuple):
    """One checkpoint, with the hash that names its content; its folder may be gone since."""

    step: int
    path: Path
    digest: str

    @property
    def is_gone(self) -> bool:
        """Whether only what was measured of it is left."""
        return not self.path.is_dir()


@dataclass(frozen=True)
class Series:
    """The checkpoints of one run, ascending, as one matrix is found in them.

    Attributes:
        run: The run's name.
        checkpoints: Those that are measured, and those that were and are gone since.
        pieces: Where the matrix lies, by the steps of those that hold it.
        master: The format that held the weights in training.
    """

    run: str
    checkpoints: tuple[Source, ...]
    pieces: Mapping[int, Piece]
    master: str = "unknown"


@dataclass(frozen=True)
class Task:
    """One matrix of one anchor, through every checkpoint of every run that shares the anchor."""

    view: View
    anchor: Source
    series: tuple[Series, ...]
    results: ResultsFolder
    options: Options

    @property
    def num_units(self) -> int:
        """How many (matrix, checkpoint, storage) units the task holds."""
        return len(self.options.passes) * sum(len(s.pieces) for s in self.series)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of stored weights, read anew for each checkpoint and as the one before it."""
        held = [piece for s in self.series for piece in s.pieces.values()]
        again = len(self.options.passes) * sum(map(cost.read_bytes, held))
        return cost.read_bytes(self.view.piece) + again

    @property
    def peak_bytes(self) -> int:
        """Memory that the task holds at most, beside the interpreter and its libraries."""
        known, o = diagnostics(), self.options
        named = {name for each in o.passes for name in each.diagnostics if name in known}
        chosen = {name: known[name] for name in named}
        request = request_for(chosen, o.overrides, self.view.shape, o.tier, vectors=1)
        pieces = (self.view.piece, *(p for s in self.series for p in s.pieces.values()))
        dtypes = {piece.dtype for piece in pieces}
        measuring = cost.peak_bytes(self.view, o.tier, request.top, dtypes)
        beside = max(cost.cutting_bytes(piece) for piece in pieces)
        return max(measuring + beside, cost.comparing_bytes(self.view, o.walk_draws))

    def open(self, source: Source) -> CheckpointReader:
        """Open the anchor, or one of the checkpoints."""
        return open_checkpoint(source.path, self.options.access, self.anchor.path)

    def core_seconds(self, tier: Tier) -> float:
        """Estimated time on one core by a tier, if no unit is finished."""
        o = self.options
        return cost.seconds(self.view, tier, self.num_units, 2 * o.draws + o.edge_draws)


def run_task(task: Task) -> int:
    """Measure what is not measured yet; return how many units were made."""
    made = 0
    for each in task.options.passes:
        jobs = [job for series in task.series for job in _missing(task, series, each)]
        if not jobs:
            continue
        anchor = _prepared(task, each, jobs)
        readers = [partial(_placed, job, job.reader, job.piece) for job in jobs]
        turns = ahead(readers, enabled=worth_it(task.options.device))
        for job, read in zip(jobs, turns, strict=True):
            _make(job, anchor, read)
        made += len(jobs)
    return made


def _names(view: View, names: Collection[str]) -> set[str]:
    """The diagnostics that a view can have: of its elements alone, those that count them."""
    if view.kind == "matrix":
        return set(names)
    return {name for name, item in diagnostics().items() if name in names and item.of_elements}


@dataclass(frozen=True)
class _Job:
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


def _missing(task: Task, series: Series, each: Pass) -> Iterator[_Job]:
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
            yield _Job(task, each, series, source, reader, piece, present, wanted, lacking, adds)
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


def _prepared(task: Task, each: Pass, jobs: Sequence[_Job]) -> PreparedAnchor:
    o = task.options
    W = _read(task.open(task.anchor), task.view, task.view.piece, each).to(o.device)
    chosen = {name: item for job in jobs for name, item in job.chosen.items()}
    vectors = max(job.vectors for job in jobs) if task.view.kind == "matrix" else 0
    request = request_for(chosen, o.overrides, task.view.shape, o.tier, vectors=vectors)
    return prepare(W, request)


def _make(job: _Job, anchor: PreparedAnchor, read: Reader) -> None:
    view, each, o = job.task.view, job.storage, job.task.options
    key = f"{job.series.run}|{job.source.step}|{view.key}|{each.storage}"
    stored = job.provenance.dtype if each.storage == "stored" else "bfloat16"
    thin = _factors(job, job.task.anchor, view.piece)
    held = Stored(read, getattr(torch, stored), job.series.master, thin)
    found = evaluate(anchor, held, job.chosen, o.overrides, o.draws_for(key))
    readings, nulls = units.cells(found.evaluated, each.storage, _flags(job))
    tensors = dict(found.kept)
    if similarity.NAME in job.lacking:
        tensors |= _increment(job, found.kept, read)
    path = unit_path(job.task, job.series, job.source, each.storage)
    if job.adds and (earlier := units.load(path)) is not None:
        readings = beside.rows(earlier.readings, readings)
        nulls = beside.rows(earlier.nulls, nulls)
        tensors = beside.tensors(earlier.tensors(), tensors, job.lacking)
    units.save(path, job.provenance, readings, nulls, tensors)


def _flags(job: _Job) -> tuple[str, ...]:
    """What holds of everything that is read of a unit."""
    flags = ("quantised",) if _is_quantised(job) else ()
    if job.storage.storage != "stored":
        return flags
    if job.place.is_unmerged:
        return ("unmerged", *flags)
    return ("mixed_precision", *flags) if job.piece.dtype != job.task.view.dtype else flags


def _is_quantised(job: _Job) -> bool:
    if not job.task.options.access.quantised:
        return False
    anchor = job.task.open(job.task.anchor)
    places = (job.place, Place(anchor, job.task.view.piece))
    return any(is_quantised(reader, piece.tensor) for reader, piece in places)


def _factors(job: _Job, before: Source, piece: Piece) -> Factors | None:
    """The update since an earlier checkpoint as a product of thin factors, where it is held so.

    A cast to bf16 leaves no such product.
    """
    if job.storage.storage != "stored" or job.task.view.kind != "matrix":
        return None
    found = job.place.since(Place(job.task.open(before), piece))
    if found is None:
        return None
    device = job.task.options.device
    return found.left.to(device), found.right.to(device)


_OF_STEP = {
    "left": "increment_left",
    "right": "increment_right",
    "delta_spectrum": "increment_spectrum",
    "residuals": "increment_residuals",
    "norm": "increment_norm",
}


def _increment(job: _Job, kept: Mapping[str, Tensor], read: Reader) -> dict[str, Tensor]:
    """The leading factors of the step since the checkpoint before; at the first, of the update."""
    if job.before is job.task.anchor:
        return _of_step(kept)
    piece = job.series.pieces[job.before.step]
    thin = _factors(job, job.before, piece)
    if thin is not None:
        return _of_step(leading_of_step(thin, job.vectors))
    before = partial(_placed, job, job.task.open(job.before), piece)
    return _of_step(leading_factors(before, read, job.vectors, job.task.options.tier))


def _of_step(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: found[ours] for ours, name in _OF_STEP.items()}


def _placed(job: _Job, reader: CheckpointReader, piece: Piece) -> Tensor:
    """Read the matrix of a job, and move it to where it is worked on."""
    return _read(reader, job.task.view, piece, job.storage).to(job.task.options.device)


def _read(reader: CheckpointReader, view: View, piece: Piece, each: Pass) -> Tensor:
    """Read one matrix as stored, or as a bf16 file would have held it."""
    W = piece.read(reader).reshape(view.shape)
    if each.storage == "bf16":
        W = rounding.narrowed(W)
    bad = W.numel()
    for part in W.reshape(-1).split(_STRETCH):
        bad -= int(part.isfinite().sum())
    if bad:
        raise CheckpointError(
            f"tensor {view.label!r} in {reader.path}",
            expected="finite weights",
            found=f"{bad} of {W.numel()} entries NaN or infinite"
            + (" once cast to bfloat16" if each.storage == "bf16" else ""),
            do="find the step at which training diverged and measure up to the one before it",
        )
    return W
