"""Measure trajectories into a results folder: plan, stream, assemble."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.adapters.folder import AdapterFolder
from offaxis.checkpoints.trajectory import Trajectory
from offaxis.console import byte_progress, messages, progress
from offaxis.files import exclusively, sweep
from offaxis.measurement.assemble import RunView, gather_rows, training_rows
from offaxis.measurement.digests import hash_checkpoint, remember, remembered
from offaxis.measurement.earlier import (
    earlier_runs,
    extended_by,
    gone_since,
    require_same_runs,
    require_same_tier,
)
from offaxis.measurement.executors import Executor, open_executor
from offaxis.measurement.fallbacks import describe_fast
from offaxis.measurement.options import Options
from offaxis.measurement.plan import Plan, make_plan, master_precision
from offaxis.measurement.provenance import (
    ANCHOR_DIGITS,
    Runs,
    manifest,
    measured_steps,
    run_coverage,
)
from offaxis.measurement.spool import unspool
from offaxis.measurement.stream import run_task
from offaxis.measurement.tasks import Task
from offaxis.table import MEASURED, ResultsFolder


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
    for with other draws; other settings are added to them. Runs already in the folder stay in it. A
    run that another process measures into the same folder is waited for.

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
        CoverageError: If less of a checkpoint can be paired than is asked for; nothing is measured.
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
        earlier = earlier_runs(results)
        require_same_tier(results, options.tier)
        extended = [extended_by(trajectory, earlier) for trajectory in trajectories]
        gone = {t.run: gone_since(t, earlier.get(t.run)) for t in extended}
        hashed = cache(lambda: _digests(engine, results, extended, options.access, console))
        plan = make_plan(extended, results, options, lambda path: hashed()[path], gone)
        require_same_runs(plan, earlier)
        console.print(plan.describe())
        _run_tasks(engine, plan.tasks, console)
        _write_tables(engine, plan, extended, earlier, console)
        with exclusively(out / ".lock"):
            held = results.manifest() if results.manifest_path.exists() else {}
            results.write_manifest(manifest(plan, options, held, study))
        if options.tier == "fast":
            console.print(describe_fast(results, runs))
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
    engine: Executor,
    results: ResultsFolder,
    trajectories: Sequence[Trajectory],
    access: Access,
    console: Console,
) -> dict[Path, str]:
    """The hash of every checkpoint; each file is read once, and again when it has changed.

    What is measured from an anchor depends on the base of its adapters, where that is another one.
    """
    hashed = _hashed(engine, results, trajectories, access, console)
    if access.base is None or not any(AdapterFolder.recognises(path) for path in hashed):
        return hashed
    on = hashed[access.base]
    anchors = {t.anchor for t in trajectories}
    return hashed | {p: sha256(f"{hashed[p]} on {on}".encode()).hexdigest() for p in anchors}


def _hashed(
    engine: Executor,
    results: ResultsFolder,
    trajectories: Sequence[Trajectory],
    access: Access,
    console: Console,
) -> dict[Path, str]:
    given = {p for t in trajectories for p in (t.anchor, *(c.path for c in t.checkpoints))}
    paths = sorted(given if access.base is None else {*given, access.base})
    memory = results.root / ".digests.json"
    known = remembered(memory, paths, access)
    new = [path for path in paths if path not in known]
    if not new:
        return known
    with progress(console) as bars:
        found = engine.as_done(partial(hash_checkpoint, access=access), new)
        hashed = dict(bars.track(found, len(new), description="hashing checkpoints"))
    remember(memory, ((path, hashed[position]) for position, path in enumerate(new)), access)
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
            _write_run(engine, plan.results, trajectory.run, items, lambda: bars.advance(bar))
            _write_log(plan.results, trajectory)


def _views(plan: Plan, trajectory: Trajectory, earlier: Runs) -> list[RunView]:
    """The run's matrices, with every step that has units: those measured before included."""
    run = trajectory.run
    steps = measured_steps(plan, run, earlier.get(run, {}))
    master = master_precision(trajectory)
    anchor = plan.anchor_of[run].digest[:ANCHOR_DIGITS]
    rows, pairing = plan.results.spool(run), plan.pairing_of[run]
    absent = run_coverage(plan, run, earlier.get(run, {}))["absent"]
    found = []
    for index, view in enumerate((*pairing.matrices, *pairing.elements)):
        without = absent.get(view.label, ())
        held = {as_: tuple(s for s in each if s not in without) for as_, each in steps.items()}
        place = rows / f"{index}.arrows"
        found.append(RunView(plan.results, run, anchor, held, view, master, plan.options, place))
    return found


def _write_run(
    engine: Executor,
    results: ResultsFolder,
    run: str,
    items: Sequence[RunView],
    advance: Callable[[], object],
) -> None:
    """Gather the rows of every matrix, and write them in the order of the plan.

    A matrix's rows wait in a file for those before it: no run is in memory as a whole.
    """
    rows, done, following = results.spool(run), set[int](), 0
    with ExitStack() as block:
        block.callback(shutil.rmtree, rows, ignore_errors=True)
        writers = {name: block.enter_context(results.writing(name, run)) for name in MEASURED}
        peaks = [item.peak_bytes for item in items]
        for position, _ in engine.as_done(gather_rows, items, peaks):
            advance()
            done.add(position)
            while following in done:
                for table, batch in unspool(items[following].rows):
                    writers[table].add(batch)
                items[following].rows.unlink()
                following += 1


def _write_log(results: ResultsFolder, trajectory: Trajectory) -> None:
    """What training logged, where it did."""
    log = training_rows(trajectory)
    if log:
        results.write("training", trajectory.run, log)
    else:
        results.part("training", trajectory.run).unlink(missing_ok=True)
