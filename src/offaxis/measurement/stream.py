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
from offaxis.checkpoints.views import View
from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Diagnostic, Tier
from offaxis.engine import (
    PreparedAnchor,
    Stored,
    evaluate,
    leading_factors,
    prepare,
    request_for,
)
from offaxis.errors import CheckpointError
from offaxis.linalg import rounding
from offaxis.measurement import beside, cost, units
from offaxis.measurement.ahead import Reader, ahead, worth_it
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
    """The checkpoints of one run, ascending, and the format that held its weights in training."""

    run: str
    checkpoints: tuple[Source, ...]
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
        present = sum(not source.is_gone for s in self.series for source in s.checkpoints)
        return len(self.options.passes) * present

    @property
    def bytes_to_read(self) -> int:
        """Bytes of stored weights, read anew for each checkpoint and as the one before it."""
        return cost.stored_bytes(self.view) * (1 + self.num_units)

    @property
    def peak_bytes(self) -> int:
        """Memory that the task holds at most, beside the interpreter and its libraries."""
        known, o = diagnostics(), self.options
        named = {name for each in o.passes for name in each.diagnostics if name in known}
        chosen = {name: known[name] for name in named}
        request = request_for(chosen, o.overrides, self.view.shape, o.tier, vectors=1)
        measuring = cost.peak_bytes(self.view, o.tier, request.top)
        return max(measuring, cost.comparing_bytes(self.view, o.walk_draws))

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
        readers = [partial(_placed, job, job.reader) for job in jobs]
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
    before: Source
    provenance: units.Provenance
    lacking: Collection[str]
    adds: bool

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
    began there, and is not made again from an earlier one.
    """
    held = [units.provenance(unit_path(task, series, s, each.storage)) for s in series.checkpoints]
    ranks = {K for unit in held if unit is not None for K in unit.ranks}
    before = present = task.anchor
    for source, unit in zip(series.checkpoints, held, strict=True):
        if source.is_gone:
            before = source
            continue
        reader = task.open(source)
        dtype = reader.tensors()[task.view.tensor].dtype
        current, names = (source, dtype), _names(task.view, each.diagnostics)
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
            yield _Job(task, each, series, source, reader, present, wanted, lacking, adds)
        before = present = source


def _provenance(
    task: Task,
    each: Pass,
    current: tuple[Source, str],
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
        view=task.view.view,
        storage=each.storage,
        dtype=current[1],
        tier=o.tier,
        draws=f"{o.draws}+{o.edge_draws}, seed {o.seed}",
        definitions=named,
    )


def _prepared(task: Task, each: Pass, jobs: Sequence[_Job]) -> PreparedAnchor:
    o = task.options
    W = _read(task.open(task.anchor), task.view, each).to(o.device)
    chosen = {name: item for job in jobs for name, item in job.chosen.items()}
    vectors = max(job.vectors for job in jobs) if task.view.kind == "matrix" else 0
    request = request_for(chosen, o.overrides, task.view.shape, o.tier, vectors=vectors)
    return prepare(W, request)


def _make(job: _Job, anchor: PreparedAnchor, read: Reader) -> None:
    view, each, o = job.task.view, job.storage, job.task.options
    key = f"{job.series.run}|{job.source.step}|{view.label}|{each.storage}"
    stored = job.provenance.dtype if each.storage == "stored" else "bfloat16"
    held = Stored(read, getattr(torch, stored), job.series.master)
    found = evaluate(anchor, held, job.chosen, o.overrides, o.draws_for(key))
    is_mixed = each.storage == "stored" and stored != view.dtype
    flags = ("mixed_precision",) if is_mixed else ()
    readings, nulls = units.cells(found.evaluated, each.storage, flags)
    tensors = dict(found.kept)
    if similarity.NAME in job.lacking:
        tensors |= _increment(job, found.kept, read)
    path = unit_path(job.task, job.series, job.source, each.storage)
    if job.adds and (earlier := units.load(path)) is not None:
        readings = beside.rows(earlier.readings, readings)
        nulls = beside.rows(earlier.nulls, nulls)
        tensors = beside.tensors(earlier.tensors(), tensors, job.lacking)
    units.save(path, job.provenance, readings, nulls, tensors)


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
        step = kept
    else:
        before = partial(_placed, job, job.task.open(job.before))
        step = leading_factors(before, read, job.vectors, job.task.options.tier)
    return {name: step[ours] for ours, name in _OF_STEP.items()}


def _placed(job: _Job, reader: CheckpointReader) -> Tensor:
    """Read the matrix of a job, and move it to where it is worked on."""
    return _read(reader, job.task.view, job.storage).to(job.task.options.device)


def _read(reader: CheckpointReader, view: View, each: Pass) -> Tensor:
    """Read one matrix as stored, or as a bf16 file would have held it."""
    W = reader.read(view.tensor, view.entry).reshape(view.shape)
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
