"""Many runs on a few cores: each as soon as what it builds on is there, the longest first."""

import multiprocessing
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from graphlib import TopologicalSorter
from pathlib import Path
from queue import Empty
from typing import Any

from rich.console import Console

from offaxis.console import progress
from offaxis.errors import Interrupted, OffaxisError, ResultsError
from offaxis.training.folders import check_writable
from offaxis.training.jobs import Job
from offaxis.training.recorder import Progress
from offaxis.training.run import train, train_model
from offaxis.training.stopping import ended_by_sigterm
from offaxis.workers import worker_pool

_POLL_SECONDS = 0.2

# A queue of (name, Progress); multiprocessing's queues take no parameters at run time.
News = Any


Failures = dict[str, OffaxisError]
"""What went wrong, by the name of the job."""


def train_all(
    jobs: dict[str, Job],
    out: Path,
    workers: int,
    console: Console,
    failures: Failures | None = None,
) -> None:
    """Train every job in worker processes, showing what is going on and what remains.

    An interruption or an error ends the workers, each after its step: what is finished is kept, and
    the rest continues from there when it is asked for again.

    Args:
        jobs: What to train.
        out: The folder of runs and models.
        workers: How many at a time.
        console: Where progress goes.
        failures: Where given, an error ends its own job and those that wait for it alone, and is
            noted here under the name of each.

    Raises:
        OffaxisError: The first error of a run, where failures are not noted.
        ResultsError: If the folder cannot be written, in either case.
    """
    check_writable(out)
    order = TopologicalSorter({name: job.needs for name, job in jobs.items()})
    order.prepare()
    context = multiprocessing.get_context("spawn")
    news: News = context.Queue()
    with (
        ended_by_sigterm(),
        worker_pool(workers, _begin, news) as pool,
        _Board(jobs, console) as board,
    ):
        waiting: list[str] = []
        running: dict[Future[None], str] = {}
        while order.is_active():
            waiting += _startable(order, jobs, failures)
            waiting.sort(key=lambda name: _remaining(name, jobs))
            while waiting and len(running) < workers:
                name = waiting.pop()
                running[pool.submit(_work, name, jobs[name], out)] = name
            done, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            board.read(news)
            for future in done:
                name = running.pop(future)
                _note(name, future, failures)
                board.finish(name)
                order.done(name)


def _startable(
    order: "TopologicalSorter[str]", jobs: dict[str, Job], failures: Failures | None
) -> list[str]:
    """The jobs that have become ready; those that wait for one that failed have failed with it."""
    ready = list(order.get_ready())
    lost = [name for name in ready if failures and not failures.keys().isdisjoint(jobs[name].needs)]
    for name in lost:
        assert failures is not None
        failures[name] = next(failures[need] for need in jobs[name].needs if need in failures)
        order.done(name)
    if not lost:
        return ready
    return [name for name in ready if name not in lost] + _startable(order, jobs, failures)


def _note(name: str, future: Future[None], failures: Failures | None) -> None:
    """Note the error of a run, or raise it; a disk that is full would be that of all."""
    try:
        future.result()
    except OffaxisError as error:
        if failures is None or isinstance(error, ResultsError):
            raise
        failures[name] = error


def _remaining(name: str, jobs: dict[str, Job]) -> float:
    """Seconds on the longest path from a job to the end: the longest is started first."""
    later = [other for other, job in jobs.items() if name in job.needs]
    return jobs[name].stage.seconds + max((_remaining(other, jobs) for other in later), default=0)


class _Board:
    """The progress display: one bar for all, one for each run in work."""

    def __init__(self, jobs: dict[str, Job], console: Console) -> None:
        self.jobs = jobs
        self.bars = progress(console)
        self.all = self.bars.add_task("training", total=len(jobs))
        self.shown: dict[str, Any] = {}

    def __enter__(self) -> "_Board":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def read(self, news: News) -> None:
        """Show what the workers have reported."""
        while True:
            try:
                name, report = news.get_nowait()
            except Empty:
                return
            if report.note:
                self.bars.console.print(f"{name}: {report.note}")
            if name not in self.shown:
                self.shown[name] = self.bars.add_task(name, total=report.max_steps)
            known = "" if report.accuracy is None else f"  accuracy {report.accuracy:.3f}"
            self.bars.update(self.shown[name], completed=report.step, description=f"{name}{known}")

    def finish(self, name: str) -> None:
        """Take a finished run off the display."""
        if name in self.shown:
            self.bars.remove_task(self.shown.pop(name))
        self.bars.advance(self.all)
        if not self.bars.console.is_terminal:  # bars need one; a log gets lines
            done = int(self.bars.tasks[0].completed)
            said = "kept" if self.jobs[name].stage.is_finished else "trained"
            self.bars.console.print(f"{said} {name} ({done} of {len(self.jobs)})")


class _Post:
    """A worker's letter box; the process has one, set when it begins."""

    news: News | None = None


def _begin(news: News) -> None:
    """Give a worker its letter box."""
    _Post.news = news


def _work(name: str, job: Job, out: Path) -> None:
    """Train one job in a worker."""
    last = 0.0

    def observe(report: Progress) -> None:
        nonlocal last
        if report.finished or report.note or time.monotonic() - last > _POLL_SECONDS:
            last = time.monotonic()
            assert _Post.news is not None
            _Post.news.put((name, report))

    try:
        (train if job.is_run else train_model)(job.recipe, out, observe=observe)
    except Interrupted as stopped:
        os._exit(stopped.exit_code)  # whoever asked for it waits for the end, not for an answer
