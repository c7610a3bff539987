"""Measure trajectories into a results folder: plan, stream, assemble."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from offaxis.checkpoints.trajectory import Checkpoint, Trajectory
from offaxis.console import byte_progress, messages, progress
from offaxis.errors import ResultsError
from offaxis.files import exclusively, sweep
from offaxis.measurement.assemble import Rows, RunView, rows_of, training_rows
from offaxis.measurement.digests import hash_checkpoint, remember, remembered
from offaxis.measurement.executors import Executor, open_executor
from offaxis.measurement.options import Options
from offaxis.measurement.plan import Plan, make_plan, master_precision
from offaxis.measurement.provenance import ANCHOR_DIGITS, Runs, manifest, measured_steps
from offaxis.measurement.stream import Source, Task, run_task
from offaxis.table import ResultsFolder


def measure(
    trajectories: Sequence[Trajectory],
    out: Path,
    options: Options,
    *,
    workers: int | None = None,
    executor: str = "pool",
    max_memory: int | None = None,
    study: dict[str, Any] | None = None,
    console: Console | None = None,
) -> ResultsFolder:
    """Measure every matrix of every checkpoint, and write or extend a results folder.

    Finished units are kept, whatever happens later, and are not made again, unless they are asked
    for with other settings or draws. Runs already in the folder stay in it. A run that another
    process measures into the same folder is waited for.

    Args:
        trajectories: What to measure.
        out: The results folder.
        options: Diagnostics, settings and draws.
        workers: Processes; each uses one thread. Readings do not depend on their number.
        executor: The engine that runs them: `pool`, `torchrun` or `ray`. Nor on this.
        max_memory: Bytes that the matrices in work may take together; no limit by default.
        study: What the page shall say of the study as a whole.
        console: Where plan and progress go.

    Raises:
        CheckpointError: If a checkpoint cannot be read or paired with its anchor.
        ResultsError: If the folder cannot be written, or holds another run of the same name.
        UsageError: If there are no workers, or not memory enough for the largest matrix.
    """
    console = console or messages()
    results = ResultsFolder(out)
    runs = sorted(trajectory.run for trajectory in trajectories)
    with (
        open_executor(executor, workers, max_memory) as engine,
        _alone(results, runs, console),
    ):
        sweep(out)
        earlier = _earlier(results)
        _require_same_tier(results, options)
        extended = [_extended(trajectory, earlier) for trajectory in trajectories]
        digests = _digests(engine, results, extended, console)
        gone = {t.run: _gone(t, earlier.get(t.run)) for t in extended}
        plan = make_plan(extended, results, options, digests.__getitem__, gone)
        _require_same_runs(plan, earlier)
        console.print(plan.describe())
        _run_tasks(engine, plan.tasks, console)
        _write_tables(engine, plan, extended, earlier, console)
        with exclusively(out / ".lock"):
            held = results.manifest() if results.manifest_path.exists() else {}
            results.write_manifest(manifest(plan, options, held, study))
    return results


@contextmanager
def _alone(results: ResultsFolder, runs: Sequence[str], console: Console) -> Iterator[None]:
    """Keep runs to this process: another one would make the same units, or quite different ones."""
    with ExitStack() as held:
        for run in runs:
            message = f"waiting: another process measures {run!r} into {results.root}"
            held.enter_context(exclusively(results.lock(run), partial(console.print, message)))
        yield


def _digests(
    engine: Executor, results: ResultsFolder, trajectories: Sequence[Trajectory], console: Console
) -> dict[Path, str]:
    """The hash of every checkpoint; each file is read once, and again when it has changed."""
    paths = sorted({p for t in trajectories for p in (t.anchor, *(c.path for c in t.checkpoints))})
    memory = results.root / ".digests.json"
    known = remembered(memory, paths)
    new = [path for path in paths if path not in known]
    if not new:
        return known
    with progress(console) as bars:
        found = engine.as_done(hash_checkpoint, new)
        hashed = dict(bars.track(found, len(new), description="hashing checkpoints"))
    remember(memory, ((path, hashed[position]) for position, path in enumerate(new)))
    return known | {path: hashed[position].digest for position, path in enumerate(new)}


def _run_tasks(engine: Executor, tasks: Sequence[Task], console: Console) -> None:
    """Make what is missing, with a bar in bytes, which are read faster where units are there."""
    total = sum(task.bytes_to_read for task in tasks)
    done = engine.as_done(run_task, tasks, [task.peak_bytes for task in tasks])
    with byte_progress(console) as bars:
        bar = bars.add_task("measuring", total=total, counted=f"0/{len(tasks)} matrices")
        for count, (position, _) in enumerate(done, start=1):
            counted = f"{count}/{len(tasks)} matrices"
            bars.update(bar, advance=tasks[position].bytes_to_read, counted=counted)


def _write_tables(
    engine: Executor,
    plan: Plan,
    trajectories: Sequence[Trajectory],
    earlier: Runs,
    console: Console,
) -> None:
    """Write every run's tables from its units, those made before included."""
    views = [_views(plan, trajectory, earlier) for trajectory in trajectories]
    with progress(console) as bars:
        bar = bars.add_task("comparing checkpoints", total=sum(map(len, views)))
        for trajectory, items in zip(trajectories, views, strict=True):
            found: dict[int, Rows] = {}
            for position, rows in engine.as_done(rows_of, items):
                found[position] = rows
                bars.advance(bar)
            _write_run(plan.results, trajectory, [found[i] for i in range(len(items))])


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


def _write_run(results: ResultsFolder, trajectory: Trajectory, parts: Sequence[Rows]) -> None:
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


def _earlier(results: ResultsFolder) -> Runs:
    """What the folder holds already, by run."""
    if not results.manifest_path.exists():
        return {}
    return {run["name"]: run for run in results.manifest()["runs"]}


def _require_same_tier(results: ResultsFolder, options: Options) -> None:
    """A folder has one tier, so that no two of its numbers differ by how they were taken.

    Raises:
        ResultsError: If the folder was measured in the other one.
    """
    if not results.manifest_path.exists():
        return
    held = results.manifest().get("tier", options.tier)
    if held != options.tier:
        raise ResultsError(
            str(results.root),
            expected=f"a folder measured in the {options.tier} tier, or none yet",
            found=f"one measured in the {held} tier",
            do=f"add --tier {held}, or give another --out",
        )


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
