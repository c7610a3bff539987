"""Measure trajectories into a results folder: plan, stream, assemble."""

import multiprocessing
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy
import pyarrow
import safetensors
import torch
from rich.console import Console

import offaxis
from offaxis.checkpoints.trajectory import Trajectory
from offaxis.console import messages, progress
from offaxis.diagnostics import similarity
from offaxis.errors import ResultsError
from offaxis.measurement.assemble import Rows, rows_of, training_rows
from offaxis.measurement.options import Options, diagnostics
from offaxis.measurement.plan import Plan, make_plan
from offaxis.measurement.stream import run_task
from offaxis.table import ResultsFolder

Work = TypeVar("Work")
Answer = TypeVar("Answer")


def measure(
    trajectories: Sequence[Trajectory],
    out: Path,
    options: Options,
    *,
    workers: int | None = None,
    study: dict[str, Any] | None = None,
    console: Console | None = None,
) -> ResultsFolder:
    """Measure every matrix of every checkpoint, and write or extend a results folder.

    Finished units are kept, whatever happens later, and are not made again. Runs already in the
    folder stay in it.

    Args:
        trajectories: What to measure.
        out: The results folder.
        options: Diagnostics, settings and draws.
        workers: Processes; each uses one thread. Readings do not depend on their number.
        study: What the page shall say of the study as a whole.
        console: Where plan and progress go.

    Raises:
        CheckpointError: If a checkpoint cannot be read or paired with its anchor.
        ResultsError: If the folder cannot be written, or holds another run of the same name.
    """
    console = console or messages()
    results = ResultsFolder(out)
    plan = make_plan(trajectories, results, options)
    earlier = _earlier_runs(results, plan)
    console.print(plan.describe())
    with _pool(workers or os.cpu_count() or 1) as pool, progress(console) as bars:
        bar = bars.add_task("measuring matrices", total=len(plan.tasks))
        for _ in _each_done(pool, run_task, plan.tasks):
            bars.advance(bar)
        bar = bars.add_task("comparing checkpoints", total=len(plan.runs))
        for run, views in plan.runs.items():
            _write_run(results, run, pool.map(rows_of, views))
            bars.advance(bar)
    for trajectory in trajectories:
        rows = training_rows(trajectory)
        if rows:
            results.write("training", trajectory.run, rows)
    results.write_manifest(_manifest(plan, options, earlier, study))
    return results


def _write_run(results: ResultsFolder, run: str, parts: Iterator[Rows]) -> None:
    whole = Rows([], [], [], [])
    for part in parts:
        for name in ("readings", "nulls", "spectra", "angles"):
            getattr(whole, name).extend(getattr(part, name))
    for name in ("readings", "nulls", "spectra", "angles"):
        results.write(name, run, getattr(whole, name))


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """A pool of single-threaded processes, whose unfinished work is dropped on any error."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_single_thread)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    else:
        pool.shutdown()


def _single_thread() -> None:
    torch.set_num_threads(1)


def _each_done(
    pool: Executor, function: Callable[[Work], Answer], work: Sequence[Work]
) -> Iterator[Answer]:
    futures = [pool.submit(function, item) for item in work]
    for future in as_completed(futures):
        yield future.result()


def _earlier_runs(results: ResultsFolder, plan: Plan) -> dict[str, dict[str, Any]]:
    """What the folder holds already, by run.

    Raises:
        ResultsError: If a run of the same name in it came from elsewhere.
    """
    if not results.manifest_path.exists():
        return {}
    earlier = {run["name"]: run for run in results.manifest()["runs"]}
    for trajectory in plan.trajectories:
        known = earlier.get(trajectory.run)
        here = str(trajectory.checkpoints[0].path.resolve().parent)
        if known is not None and known["path"] != here:
            raise ResultsError(
                f"run {trajectory.run!r} in {results.root}",
                expected=f"the run measured before, from {known['path']}",
                found=f"one from {here}",
                do="give it another name with --run, or another folder with --out",
            )
    return earlier


def _manifest(
    plan: Plan, options: Options, earlier: dict[str, dict[str, Any]], study: dict[str, Any] | None
) -> dict[str, Any]:
    runs = earlier | {t.run: _run_entry(t, plan) for t in plan.trajectories}
    anchors: dict[str, dict[str, Any]] = defaultdict(dict)
    for run in runs.values():
        anchors[run["anchor"]] = {"id": run["anchor"], "sha256": run["anchor_sha256"]}
    return {
        "offaxis": offaxis.__version__,
        "options": options.as_dict(),
        "definitions": _definitions(),
        "runs": [runs[name] for name in sorted(runs)],
        "anchors": list(anchors.values()),
        "coverage": plan.coverage(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "pyarrow": pyarrow.__version__,
            "safetensors": safetensors.__version__,
        },
        "study": study,
    }


def _run_entry(trajectory: Trajectory, plan: Plan) -> dict[str, Any]:
    said = trajectory.manifest
    kept = ("arm", "objective", "seed", "recipe", "recipe_hash", "precision", "start", "teacher")
    anchor = plan.anchor_of[trajectory.run]
    return {
        "name": trajectory.run,
        **{name: said.get(name) for name in kept},
        "path": str(trajectory.checkpoints[0].path.resolve().parent),
        "anchor": anchor.digest[:12],
        "anchor_sha256": anchor.digest,
        "anchor_path": str(anchor.path),
        "steps": [c.step for c in plan.sources[trajectory.run]],
        "checkpoints": {str(c.step): c.digest for c in plan.sources[trajectory.run]},
    }


def _definitions() -> dict[str, Any]:
    found = {
        item.name: {
            "version": item.version,
            "quantities": dict(item.units),
            "source": item.source,
            "text": (item.function.__doc__ or "").strip(),
        }
        for item in diagnostics().values()
    }
    found[similarity.NAME] = {
        "version": similarity.VERSION,
        "quantities": dict(similarity.UNITS),
        "source": similarity.SOURCE,
        "text": (similarity.similarity.__doc__ or "").strip(),
    }
    return found
