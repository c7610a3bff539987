"""Matrices outside, checkpoints inside: the anchor is factored once and serves every checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
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
from offaxis.linalg.spectra import gram_svd
from offaxis.measurement import units
from offaxis.measurement.evaluate import Draws, evaluate
from offaxis.measurement.options import Options, Pass, diagnostics
from offaxis.table import ResultsFolder, definition


class Source(NamedTuple):
    """One checkpoint on disk, with the hash that names its content."""

    step: int
    path: Path
    digest: str


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
        return len(self.options.passes) * sum(len(s.checkpoints) for s in self.series)


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
    before: Source
    provenance: units.Provenance
    chosen: Mapping[str, Diagnostic]


def unit_path(task: Task, series: Series, source: Source, storage: str) -> Path:
    """Where a unit lies."""
    return task.results.factors(series.run, source.step, f"{task.view.label}.{storage}")


def _missing(task: Task, series: Series, each: Pass) -> Iterator[_Job]:
    before = task.anchor
    for source in series.checkpoints:
        held = units.load(unit_path(task, series, source, each.storage))
        known = diagnostics()
        names = [name for name in known if name in each.diagnostics]
        wanted = _provenance(task, each, source, before, {n: known[n] for n in names})
        if held is None or not held.provenance.covers(wanted):
            if held is not None:  # keep what was measured before beside what is asked for now
                names = [n for n in known if n in names or n in held.provenance.definitions]
            chosen = {name: known[name] for name in names}
            provenance = _provenance(task, each, source, before, chosen)
            yield _Job(task, each, series.run, source, before, provenance, chosen)
        before = source


def _provenance(
    task: Task, each: Pass, source: Source, before: Source, chosen: Mapping[str, Diagnostic]
) -> units.Provenance:
    p = min(task.view.rows, task.view.cols)
    overrides = task.options.overrides
    named = {
        name: definition(item.version, item.resolve(p, overrides.get(name, {})))
        for name, item in chosen.items()
    }
    if similarity.NAME in each.diagnostics:
        named[similarity.NAME] = definition(similarity.VERSION, {})
    o = task.options
    return units.Provenance(
        anchor=task.anchor.digest,
        current=source.digest,
        before=before.digest,
        tensor=task.view.tensor,
        view=task.view.view,
        storage=each.storage,
        draws=f"{o.draws}+{o.edge_draws}, seed {o.seed}",
        definitions=named,
    )


def _make(job: _Job, anchor: Matrix) -> None:
    view, each = job.task.view, job.storage
    reader = open_checkpoint(job.source.path)
    current = _read(reader, view, each)
    before = anchor.W if job.before is job.task.anchor else _read_source(job.before, view, each)
    update = WeightUpdate(
        anchor, Matrix(current), Matrix(current - anchor.W), _storage_dtype(reader, view, each)
    )
    o = job.task.options
    key = f"{o.seed}|{job.run}|{job.source.step}|{view.label}|{each.storage}"
    evaluated = evaluate(
        update, list(job.chosen.values()), o.overrides, Draws(o.draws, o.edge_draws, key)
    )
    readings, nulls = units.cells(evaluated, each.storage)
    path = job.task.results.factors(job.run, job.source.step, f"{view.label}.{each.storage}")
    tensors = _tensors(update, Matrix(current - before, gram_svd), job)
    units.save(path, job.provenance, readings, nulls, tensors)


def _tensors(update: WeightUpdate, step: Matrix, job: _Job) -> dict[str, Tensor]:
    """What later stages build on: factors, profiles and curves."""
    delta = update.delta
    K = max(similarity.ranks_for(delta.p), default=min(delta.p, 1))
    tensors = {
        "delta_spectrum": delta.s,
        "row_rms": delta.W.square().mean(1).sqrt(),
        "col_rms": delta.W.square().mean(0).sqrt(),
        "left": delta.left(K),
        "right": delta.right(K),
    }
    if similarity.NAME in job.storage.diagnostics:
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


def _storage_dtype(reader: CheckpointReader, view: View, each: Pass) -> torch.dtype:
    stored = reader.tensors()[view.tensor].dtype if each.storage == "stored" else "bfloat16"
    dtype: torch.dtype = getattr(torch, stored)
    return dtype


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
