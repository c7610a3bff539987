"""Matrices outside, checkpoints inside: the anchor is factored once and serves every checkpoint."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.trajectory import open_checkpoint
from offaxis.checkpoints.views import View
from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Diagnostic, Matrix, WeightUpdate
from offaxis.diagnostics.rotation import rotation_angles
from offaxis.errors import CheckpointError
from offaxis.linalg import rounding
from offaxis.measurement import units
from offaxis.measurement.evaluate import Draws, evaluate
from offaxis.measurement.options import Options, Pass, diagnostics
from offaxis.table import ResultsFolder, definition

FLOAT64 = 8
LIVE_MATRICES = 30
"""Matrices of float64 that a worker holds at most: anchor, current, delta, the checkpoint before,
their factors, one random update, and LAPACK's work space (28 seen at 1536 x 2048)."""


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
    """The checkpoints of one run, ascending."""

    run: str
    checkpoints: tuple[Source, ...]


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
        """Stored bytes of the matrix in the anchor and in every unit's checkpoint."""
        itemsize: int = getattr(torch, self.view.dtype).itemsize
        return self.view.rows * self.view.cols * itemsize * (1 + self.num_units)

    @property
    def peak_bytes(self) -> int:
        """Memory that a worker holds at most for this task."""
        return self.view.rows * self.view.cols * FLOAT64 * LIVE_MATRICES


def run_task(task: Task) -> int:
    """Measure what is not measured yet; return how many units were made."""
    made = 0
    for each in task.options.passes:
        anchor: Matrix | None = None
        for series in task.series:
            for job in _missing(task, series, each):
                if anchor is None:
                    anchor = Matrix(_read(open_checkpoint(task.anchor.path), task.view, each))
                _make(job, anchor)
                made += 1
    return made


@dataclass(frozen=True)
class _Job:
    """One unit to make."""

    task: Task
    storage: Pass
    run: str
    source: Source
    reader: CheckpointReader
    before: Source
    provenance: units.Provenance
    chosen: Mapping[str, Diagnostic]


def unit_path(task: Task, series: Series, source: Source, storage: str) -> Path:
    """Where a unit lies."""
    return task.results.factors(series.run, source.step, f"{task.view.label}.{storage}")


def _missing(task: Task, series: Series, each: Pass) -> Iterator[_Job]:
    """The units of one run that are not there, or not as they are wanted now.

    A checkpoint deleted since it was measured keeps its place: the increment of the one after it
    began there, and is not made again from an earlier one.
    """
    known = diagnostics()
    before = present = task.anchor
    for source in series.checkpoints:
        if source.is_gone:
            before = source
            continue
        held = units.load(unit_path(task, series, source, each.storage))
        reader = open_checkpoint(source.path)
        dtype = reader.tensors()[task.view.tensor].dtype
        names = set(each.diagnostics)
        wanted = _provenance(task, each, (source, dtype), present, names)
        if held is None or not held.provenance.covers(wanted, {before.digest, present.digest}):
            if held is not None:  # keep what was measured before beside what is asked for now
                names |= held.provenance.definitions.keys() & {*known, similarity.NAME}
            provenance = _provenance(task, each, (source, dtype), present, names)
            chosen = {name: item for name, item in known.items() if name in names}
            yield _Job(task, each, series.run, source, reader, present, provenance, chosen)
        before = present = source


def _provenance(
    task: Task, each: Pass, current: tuple[Source, str], before: Source, names: Collection[str]
) -> units.Provenance:
    p = min(task.view.rows, task.view.cols)
    o = task.options
    named = {
        name: definition(item.version, item.resolve(p, o.overrides.get(name, {})))
        for name, item in diagnostics().items()
        if name in names
    }
    if similarity.NAME in names:
        ranks = similarity.ranks_for(p, o.similarity_ranks)
        named[similarity.NAME] = definition(similarity.VERSION, {"K": max(ranks, default=0)})
    return units.Provenance(
        anchor=task.anchor.digest,
        current=current[0].digest,
        before=before.digest,
        tensor=task.view.tensor,
        view=task.view.view,
        storage=each.storage,
        dtype=current[1],
        draws=f"{o.draws}+{o.edge_draws}, seed {o.seed}",
        definitions=named,
    )


def _make(job: _Job, anchor: Matrix) -> None:
    view, each = job.task.view, job.storage
    current = _read(job.reader, view, each)
    before = anchor.W if job.before is job.task.anchor else _read_source(job.before, view, each)
    stored = job.provenance.dtype if each.storage == "stored" else "bfloat16"
    update = WeightUpdate(
        anchor, Matrix(current), Matrix(current - anchor.W), getattr(torch, stored)
    )
    o = job.task.options
    key = f"{o.seed}|{job.run}|{job.source.step}|{view.label}|{each.storage}"
    evaluated = evaluate(
        update, list(job.chosen.values()), o.overrides, Draws(o.draws, o.edge_draws, key)
    )
    is_mixed = each.storage == "stored" and stored != view.dtype
    flags = ("mixed_precision",) if is_mixed else ()
    readings, nulls = units.cells(evaluated, each.storage, flags)
    path = job.task.results.factors(job.run, job.source.step, f"{view.label}.{each.storage}")
    tensors = _tensors(update, Matrix(current - before), job)
    units.save(path, job.provenance, readings, nulls, tensors)


def _tensors(update: WeightUpdate, step: Matrix, job: _Job) -> dict[str, Tensor]:
    """What later stages build on: factors, profiles and curves."""
    delta = update.delta
    K = max(similarity.ranks_for(delta.p, job.task.options.similarity_ranks), default=1)
    tensors = {
        "delta_spectrum": delta.s,
        "row_rms": delta.W.square().mean(1).sqrt(),
        "col_rms": delta.W.square().mean(0).sqrt(),
        "left": delta.left(K),
        "right": delta.right(K),
    }
    if similarity.NAME in job.provenance.definitions:
        tensors["increment_spectrum"] = step.s
        tensors["increment_left"], tensors["increment_right"] = step.left(K), step.right(K)
    if "spectral_shift" in job.chosen or "rotation" in job.chosen:
        tensors["anchor_spectrum"], tensors["current_spectrum"] = update.anchor.s, update.current.s
    if "rotation" in job.chosen:
        item = job.chosen["rotation"]
        k = item.resolve(delta.p, job.task.options.overrides.get("rotation", {}))["k"]
        if 1 <= k <= delta.p:
            left, right = rotation_angles(update, k)
            tensors["angles_left"], tensors["angles_right"] = map(_vector, (left, right))
    return tensors


def _vector(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _read_source(source: Source, view: View, each: Pass) -> Tensor:
    return _read(open_checkpoint(source.path), view, each)


def _read(reader: CheckpointReader, view: View, each: Pass) -> Tensor:
    """Read one matrix in float64, as stored or as a bf16 file would have held it."""
    W = reader.read(view.tensor, view.entry).to(torch.float64)
    bad = int((~W.isfinite()).sum())
    if bad:
        raise CheckpointError(
            f"tensor {view.label!r} in {reader.path}",
            expected="finite weights",
            found=f"{bad} of {W.numel()} entries NaN or infinite",
            do="find the step at which training diverged and measure up to the one before it",
        )
    return rounding.cast(W, torch.bfloat16) if each.storage == "bf16" else W
