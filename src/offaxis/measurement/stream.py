"""Matrices outside, checkpoints inside: the anchor is factored once and serves every checkpoint."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from offaxis.checkpoints.base import CheckpointReader, HoldsUpdates
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.quantised import is_quantised
from offaxis.diagnostics import similarity
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
from offaxis.measurement import beside, units
from offaxis.measurement.ahead import Reader, ahead, worth_it
from offaxis.measurement.factors import Place
from offaxis.measurement.jobs import Job, missing, unit_path
from offaxis.measurement.options import Pass
from offaxis.measurement.reading import read_matrix
from offaxis.measurement.tasks import Source, Task
from offaxis.workers import give_back


def run_task(task: Task) -> int:
    """Measure what is not measured yet; return how many units were made."""
    made = 0
    for each in task.options.passes:
        jobs = [job for series in task.series for job in missing(task, series, each)]
        if not jobs:
            continue
        anchor = _prepared(task, each, jobs)
        give_back()
        readers = [partial(_placed, job, job.reader, job.piece) for job in jobs]
        turns = ahead(readers, enabled=worth_it(task.options.device))
        for job, read in zip(jobs, turns, strict=True):
            _make(job, anchor, read)
            give_back()
        made += len(jobs)
    return made


def _prepared(task: Task, each: Pass, jobs: Sequence[Job]) -> PreparedAnchor:
    o = task.options
    W = read_matrix(task.open(task.anchor), task.view, task.view.piece, each.storage).to(o.device)
    chosen = {name: item for job in jobs for name, item in job.chosen.items()}
    vectors = max(job.vectors for job in jobs) if task.view.kind == "matrix" else 0
    request = request_for(chosen, o.overrides, task.view.shape, o.tier, vectors=vectors)
    return prepare(W, request)


def _make(job: Job, anchor: PreparedAnchor, read: Reader) -> None:
    view, each, o = job.task.view, job.storage, job.task.options
    key = f"{job.series.run}|{job.source.step}|{view.key}|{each.storage}"
    stored = job.provenance.dtype if each.storage == "stored" else "bfloat16"
    thin = _factors(job, job.task.anchor, view.piece)
    held = Stored(read, getattr(torch, stored), job.series.master, thin)
    found = evaluate(anchor, held, job.chosen, o.overrides, o.draws_for(key))
    readings, nulls = units.cells(found.evaluated, each.storage, _flags(job))
    tensors = dict(found.kept)
    if similarity.NAME in job.lacking:
        tensors |= _increment(job, found.kept, read) | _factor_steps(job, thin)
    path = unit_path(job.task, job.series, job.source, each.storage)
    if job.adds and (earlier := units.load(path)) is not None:
        readings = beside.rows(earlier.readings, readings)
        nulls = beside.rows(earlier.nulls, nulls)
        tensors = beside.tensors(earlier.tensors(), tensors, job.lacking)
    units.save(path, job.provenance, readings, nulls, tensors)


def _flags(job: Job) -> tuple[str, ...]:
    """What holds of everything that is read of a unit."""
    flags = ("quantised",) if _is_quantised(job) else ()
    if job.storage.storage != "stored":
        return flags
    if job.place.is_unmerged:
        return ("unmerged", *flags)
    return ("mixed_precision", *flags) if job.piece.dtype != job.task.view.dtype else flags


def _is_quantised(job: Job) -> bool:
    if not job.task.options.access.quantised:
        return False
    anchor = job.task.open(job.task.anchor)
    places = (job.place, Place(anchor, job.task.view.piece))
    return any(is_quantised(reader, piece.tensor) for reader, piece in places)


def _factors(job: Job, before: Source, piece: Piece) -> Factors | None:
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


def _increment(job: Job, kept: Mapping[str, Tensor], read: Reader) -> dict[str, Tensor]:
    """The leading factors of the step since the checkpoint before; at the first, of the update."""
    if job.before is job.task.anchor:
        return _of_step(kept)
    piece = job.series.pieces[job.before.step]
    thin = _factors(job, job.before, piece)
    if thin is not None:
        return _of_step(leading_of_step(thin, job.vectors))
    before = partial(_placed, job, job.task.open(job.before), piece)
    return _of_step(leading_factors(before, read, job.vectors, job.task.options.tier))


def _factor_steps(job: Job, thin: Factors | None) -> dict[str, Tensor]:
    """What a walk of an adapter's factors keeps of them: their rank, and how far their rows moved.

    An update from another adapter keeps its rank alone: it does not begin at nothing.
    """
    if thin is None:
        return {}
    rank = thin[0].shape[1]
    found = {"factor_rank": torch.tensor(rank, dtype=torch.float64)}
    anchor = Place(job.task.open(job.task.anchor), job.task.view.piece)
    before = anchor
    if job.before is not job.task.anchor:
        before = Place(job.task.open(job.before), job.series.pieces[job.before.step])
    steps = None if isinstance(anchor.reader, HoldsUpdates) else job.place.moved_from(before)
    if steps is None:
        return found
    left, right = (step.norm(dim=1) / max(rank, 1) ** 0.5 for step in steps)
    return {**found, "left_step_rms": left, "right_step_rms": right}


def _of_step(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: found[ours] for ours, name in _OF_STEP.items()}


def _placed(job: Job, reader: CheckpointReader, piece: Piece) -> Tensor:
    """Read the matrix of a job, and move it to where it is worked on."""
    return read_matrix(reader, job.task.view, piece, job.storage.storage).to(
        job.task.options.device
    )
