"""Measure trajectories into a results folder: plan, stream, assemble."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from offaxis.checkpoints.trajectory import Checkpoint, Trajectory
from offaxis.console import messages, progress
from offaxis.errors import ResultsError
from offaxis.measurement.assemble import Rows, RunView, rows_of, training_rows
from offaxis.measurement.options import Options
from offaxis.measurement.plan import Plan, make_plan
from offaxis.measurement.provenance import ANCHOR_DIGITS, Runs, manifest
from offaxis.measurement.stream import run_task
from offaxis.table import ResultsFolder
from offaxis.workers import worker_pool

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
    earlier = _earlier(results)
    plan = make_plan([_extended(t, earlier, results) for t in trajectories], results, options)
    _require_same_anchors(plan, earlier, results)
    console.print(plan.describe())
    with worker_pool(workers, _single_thread) as pool, progress(console) as bars:
        bar = bars.add_task("measuring matrices", total=len(plan.tasks))
        for _ in _each_done(pool, run_task, plan.tasks):
            bars.advance(bar)
        bar = bars.add_task("comparing checkpoints", total=len(plan.trajectories))
        parts = [pool.map(rows_of, _views(plan, t, earlier)) for t in plan.trajectories]
        for trajectory, rows in zip(plan.trajectories, parts, strict=True):
            _write_run(results, trajectory, rows)
            bars.advance(bar)
    results.write_manifest(manifest(plan, options, earlier, study))
    return results


def _views(plan: Plan, trajectory: Trajectory, earlier: Runs) -> list[RunView]:
    """The run's matrices, with every step that has units: those measured before included."""
    run = trajectory.run
    steps = {source.step for source in plan.sources[run]} | set(
        earlier.get(run, {}).get("steps", ())
    )
    master = (trajectory.manifest.get("precision") or {}).get("weights", "unknown")
    anchor = plan.anchor_of[run].digest[:ANCHOR_DIGITS]
    return [
        RunView(plan.results, run, anchor, tuple(sorted(steps)), view, master, plan.options)
        for view in plan.pairing_of[run].matrices
    ]


def _write_run(results: ResultsFolder, trajectory: Trajectory, parts: Iterator[Rows]) -> None:
    whole = Rows([], [], [], [])
    tables = ("readings", "nulls", "spectra", "angles")
    for part in parts:
        for name in tables:
            getattr(whole, name).extend(getattr(part, name))
    for name in tables:
        results.write(name, trajectory.run, getattr(whole, name))
    log = training_rows(trajectory)
    if log:
        results.write("training", trajectory.run, log)


def _single_thread() -> None:
    torch.set_num_threads(1)


def _each_done(
    pool: Executor, function: Callable[[Work], Answer], work: Sequence[Work]
) -> Iterator[Answer]:
    futures = [pool.submit(function, item) for item in work]
    for future in as_completed(futures):
        yield future.result()


def _earlier(results: ResultsFolder) -> Runs:
    """What the folder holds already, by run."""
    if not results.manifest_path.exists():
        return {}
    return {run["name"]: run for run in results.manifest()["runs"]}


def _extended(trajectory: Trajectory, earlier: Runs, results: ResultsFolder) -> Trajectory:
    """Add the checkpoints of this run that were measured before and are still there.

    Raises:
        ResultsError: If the run of that name in the folder came from elsewhere.
    """
    known = earlier.get(trajectory.run)
    if known is None:
        return trajectory
    if known["path"] != trajectory.origin:
        raise ResultsError(
            f"run {trajectory.run!r} in {results.root}",
            expected=f"the run measured before, from {known['path']}",
            found=f"one from {trajectory.origin}",
            do="give it another name with --run, or another folder with --out",
        )
    given = {c.step for c in trajectory.checkpoints}
    kept = [
        Checkpoint(int(step), Path(path))
        for step, path in known["checkpoint_paths"].items()
        if int(step) not in given and Path(path).is_dir()
    ]
    return replace(trajectory, checkpoints=tuple(sorted([*trajectory.checkpoints, *kept])))


def _require_same_anchors(plan: Plan, earlier: Runs, results: ResultsFolder) -> None:
    for run, anchor in plan.anchor_of.items():
        known = earlier.get(run)
        if known is not None and known["anchor_sha256"] != anchor.digest:
            raise ResultsError(
                f"run {run!r} in {results.root}",
                expected=f"the anchor it was measured from, {known['anchor_path']}",
                found=f"other weights, {anchor.path}",
                do="give the same anchor, another name with --run, or another folder with --out",
            )
