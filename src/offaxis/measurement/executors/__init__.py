"""Executors: what runs the tasks of a measurement, on one machine or on many."""

import os
from collections.abc import Mapping

from offaxis.errors import UsageError
from offaxis.measurement.executors.base import Executor, Limits
from offaxis.measurement.executors.pool import Pool
from offaxis.measurement.executors.ray import Ray
from offaxis.measurement.executors.torchrun import VARIABLES, Torchrun

__all__ = ["Executor", "engine_for", "follows", "open_executor", "serve"]


def engine_for(asked: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Name the engine: the one asked for, else torchrun where it has started us, else the pool.

    Raises:
        UsageError: If torchrun is asked for and has not started us.
    """
    started = all(name in environment for name in VARIABLES)
    if asked == "torchrun" and not started:
        raise UsageError(
            "--executor torchrun",
            expected=f"the environment of a rank: {', '.join(VARIABLES)}",
            found="a process that torchrun has not started",
            do="start it as torchrun --nproc-per-node 2 -m offaxis measure ...",
        )
    return asked or ("torchrun" if started else "pool")


def follows(engine: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a rank that serves the first one."""
    return engine == "torchrun" and environment["RANK"] != "0"


def open_executor(engine: str, workers: int | None, max_memory: int | None) -> Executor:
    """Make an executor, to be used in a `with` block.

    Args:
        engine: `pool`, `torchrun` or `ray`.
        workers: Processes, of each rank under torchrun.
        max_memory: Bytes that the tasks running at once on this machine may hold together.
    """
    engines: dict[str, type[Pool | Torchrun | Ray]] = {
        "pool": Pool,
        "torchrun": Torchrun,
        "ray": Ray,
    }
    return engines[engine](Limits(workers, max_memory))


def serve(workers: int | None, max_memory: int | None = None) -> None:
    """Work for the first of torchrun's ranks until it has finished."""
    with Torchrun(Limits(workers, max_memory)) as rank:
        rank.serve()
