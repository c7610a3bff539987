"""Measure trajectories into a results folder: plan, stream, assemble."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress

from offaxis.checkpoints.trajectory import Checkpoint, Trajectory, open_checkpoint
from offaxis.console import messages, progress
from offaxis.errors import ResultsError
from offaxis.files import exclusively, sweep
from offaxis.measurement.assemble import Rows, RunView, rows_of, training_rows
from offaxis.measurement.options import Options
from offaxis.measurement.plan import Plan, make_plan, master_precision
from offaxis.measurement.provenance import ANCHOR_DIGITS, Runs, manifest, measured_steps
from offaxis.measurement.stream import Source, run_task
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

    Finished units are kept, whatever happens later, and are not made again, unless they are asked
    for with other settings or draws. Runs already in the folder stay in it.

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
    sweep(out)
    earlier = _earlier(results)
    extended = [_extended(trajectory, earlier) for trajectory in trajectories]
    with worker_pool(workers, _single_thread) as pool, progress(console) as bars:
        digests = _digests(pool, bars, extended)
        gone = {t.run: _gone(t, earlier.get(t.run)) for t in extended}
        plan = make_plan(extended, results, options, digests.__getitem__, gone)
        _require_same_runs(plan, earlier)
        console.print(plan.describe())
        for _ in bars.track(
            _each_done(pool, run_task, plan.tasks),
            len(plan.tasks),
            description="measuring matrices",
        ):
            pass
        parts = [pool.map(rows_of, _views(plan, t, earlier)) for t in extended]
        for trajectory, rows in bars.track(
            zip(extended, parts, strict=True), len(extended), description="comparing checkpoints"
        ):
            _write_run(results, trajectory, rows)
    with exclusively(out / ".lock"):
        held = results.manifest() if results.manifest_path.exists() else {}
        results.write_manifest(manifest(plan, options, held, study))
    return results


def _digests(pool: Executor, bars: Progress, trajectories: Sequence[Trajectory]) -> dict[Path, str]:
    """The hash of every checkpoint, each file read once."""
    paths = sorted({p for t in trajectories for p in (t.anchor, *(c.path for c in t.checkpoints))})
    found = bars.track(pool.map(_digest, paths), len(paths), description="hashing checkpoints")
    return dict(zip(paths, found, strict=True))


def _digest(path: Path) -> str:
    return open_checkpoint(path).digest()


def _views(plan: Plan, trajectory: Trajectory, earlier: Runs) -> list[RunView]:
    """The run's matrices, with every step that has units: those measured before included."""
    run = trajectory.run
    steps = measured_steps(plan, run, earlier.get(run, {}))
    master = master_precision(trajectory)
    anchor = plan.anchor_of[run].digest[:ANCHOR_DIGITS]
    return [
        RunView(plan.results, run, anchor, steps, view, master, plan.options)
        for view in (*plan.pairing_of[run].matrices, *plan.pairing_of[run].elements)
    ]


def _write_run(results: ResultsFolder, trajectory: Trajectory, parts: Iterator[Rows]) -> None:
    whole = Rows()
    tables = ("readings", "nulls", "spectra", "angles", "blocks")
    for part in parts:
        for name in tables:
            getattr(whole, name).extend(getattr(part, name))
    for name in tables:
        results.write(name, trajectory.run, getattr(whole, name))
    log = training_rows(trajectory)
    if log:
        results.write("training", trajectory.run, log)
    else:
        results.part("training", trajectory.run).unlink(missing_ok=True)


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


def _extended(trajectory: Trajectory, earlier: Runs) -> Trajectory:
    """Add the checkpoints of this run that were measured before and are still there."""
    known = earlier.get(trajectory.run, {"checkpoint_paths": {}})
    given = {c.step for c in trajectory.checkpoints}
    kept = [
        Checkpoint(int(step), Path(path))
        for step, path in known["checkpoint_paths"].items()
        if int(step) not in given and Path(path).is_dir()
    ]
    return replace(trajectory, checkpoints=tuple(sorted([*trajectory.checkpoints, *kept])))


def _gone(trajectory: Trajectory, known: dict[str, Any] | None) -> list[Source]:
    """The checkpoints of this run that were measured before and have been deleted since."""
    if known is None:
        return []
    held = {c.step for c in trajectory.checkpoints}
    return [
        Source(int(step), Path(known["checkpoint_paths"][step]), digest)
        for step, digest in known["checkpoint_sha256"].items()
        if int(step) not in held
    ]


def _require_same_runs(plan: Plan, earlier: Runs) -> None:
    """A name stands for one run: one anchor, and checkpoints that agree with those measured before.

    Raises:
        ResultsError: If the folder holds another run of the same name.
    """
    for trajectory in plan.trajectories:
        run, known = trajectory.run, earlier.get(trajectory.run)
        if known is None:
            continue
        anchor = plan.anchor_of[run]
        if known["anchor_sha256"] != anchor.digest:
            raise _another(
                run, plan, f"measured from {known['anchor_path']}", f"from {anchor.path}"
            )
        before = known["checkpoint_sha256"]
        here = {str(s.step): s.digest for s in plan.sources[run] if not s.is_gone}
        common = here.keys() & before.keys()
        agree = [step for step in common if here[step] == before[step]]
        if len(agree) < len(common) or (not common and known["path"] != trajectory.origin):
            raise _another(run, plan, f"one from {known['path']}", f"one from {trajectory.origin}")


def _another(run: str, plan: Plan, expected: str, found: str) -> ResultsError:
    return ResultsError(
        f"run {run!r} in {plan.results.root}",
        expected=f"the run of that name measured before, {expected}",
        found=f"other weights, {found}",
        do="give the same anchor and checkpoints, another name with --run, or another --out",
    )
