"""A process pool on one machine, one thread a worker, the memory budget shared."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch

from offaxis.measurement.executors.base import Answer, Limits, Work, in_turn
from offaxis.workers import WORKER, num_cores, worker_pool


class Pool:
    """Spawned processes; see `worker_pool` for how they end.

    Args:
        limits: How many processes (as many as cores by default), and their common budget.
        device: The one accelerator that they see; all by default.
    """

    def __init__(self, limits: Limits, *, device: int | None = None) -> None:
        self.limits = replace(limits, tasks=num_cores() if limits.tasks is None else limits.tasks)
        self.device = device
        self._block = ExitStack()

    def __enter__(self) -> "Pool":
        pool = worker_pool(self.limits.tasks, _begin, self.device, environment=WORKER)
        self._processes: ProcessPoolExecutor = self._block.enter_context(pool)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, trace)

    def as_done(
        self,
        function: Callable[[Work], Answer],
        work: Sequence[Work],
        peaks: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Call the function on every item; see `Executor.as_done`."""

        def begin(position: int) -> Future[Answer]:
            return self._processes.submit(function, work[position])

        bytes_held = [0] * len(work) if peaks is None else peaks
        for position, future in in_turn(bytes_held, self.limits, begin, _ended):
            yield position, future.result()


def _ended(running: Collection[Future[Any]]) -> Iterable[Future[Any]]:
    return wait(running, return_when=FIRST_COMPLETED).done


def _begin(device: int | None) -> None:
    """Prepare a worker; CUDA, not begun yet, will see one device."""
    torch.set_num_threads(1)
    if device is not None:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = (
            [str(i) for i in range(torch.cuda.device_count())]
            if named is None
            else named.split(",")
        )
        if seen:
            os.environ["CUDA_VISIBLE_DEVICES"] = seen[device % len(seen)]
