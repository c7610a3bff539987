"""Ranks that torchrun started: the first one plans, prints and writes, the others serve it.

Every rank is a process pool of its own (one worker by default), so that its worker has one thread
and no device context besides. What travels between ranks is paths, settings and rows of tables,
through the key-value store of the job's rendezvous: no process group is made and no collective
called, by gloo or by NCCL, so that none can hang and the same code serves machines with and without
accelerators. A rank sees one accelerator, that of its local rank.

A rank that fails prints its message and ends; torchrun then ends the others.
"""

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType, TracebackType
from typing import Any

from torch.distributed import DistError
from torch.distributed.rendezvous import rendezvous

from offaxis.console import messages
from offaxis.errors import ResultsError
from offaxis.measurement.executors.base import Answer, Limits, Work
from offaxis.measurement.executors.pool import Pool

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each rank, and what must be there for ranks to find each other."""

_POLL_SECONDS = 0.05


class Torchrun:
    """One rank of a job.

    Args:
        limits: The workers of this rank, one by default; the budget of all ranks on this machine.
    """

    def __init__(self, limits: Limits) -> None:
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        budget = limits.memory_bytes
        share = None if budget is None else budget // local
        workers = 1 if limits.tasks is None else limits.tasks
        self.pool = Pool(Limits(workers, share), device=int(os.environ.get("LOCAL_RANK", "0")))
        self.stage = 0
        self._seen: list[int] = []

    def __enter__(self) -> "Torchrun":
        with _explained():
            self.store = next(rendezvous("env://"))[0]
        self._before = signal.signal(signal.SIGTERM, partial(_stop, self.rank))
        self.pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pool.__exit__(kind, error, trace)
        signal.signal(signal.SIGTERM, self._before)
        if self.rank == 0 and error is None:
            self._order(None)

    def as_done(
        self,
        function: Callable[[Work], Answer],
        work: Sequence[Work],
        peaks: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Call the function on every item, on all ranks; see `Executor.as_done`."""
        self.pool.limits.require_room(peaks or ())
        self._order((function, work, peaks))
        for pair in self._own(function, work, peaks):
            yield pair
            yield from self._arrived()
        while self._num_arrived < len(work) - len(work[:: self.world]):
            yield from self._arrived()
            time.sleep(_POLL_SECONDS)

    def serve(self) -> None:
        """Work for the first rank until it has finished."""
        while (order := self._next_order()) is not None:
            for number, pair in enumerate(self._own(*order)):
                self._put(self._answer(self.rank, number), pair)

    def _own(
        self,
        function: Callable[[Work], Answer],
        work: Sequence[Work],
        peaks: Sequence[int] | None,
    ) -> Iterator[tuple[int, Answer]]:
        """This rank's share: every so many-th item, so that the costly ones are spread."""
        mine = range(self.rank, len(work), self.world)
        held = None if peaks is None else [peaks[position] for position in mine]
        items = [work[position] for position in mine]
        for place, answer in self.pool.as_done(function, items, held):
            yield mine[place], answer

    def _order(self, order: tuple[Any, ...] | None) -> None:
        self.stage += 1
        self._seen = [0] * self.world
        self._put(f"order/{self.stage}", order)

    def _next_order(self) -> tuple[Any, ...] | None:
        self.stage += 1
        while not self._is_there(f"order/{self.stage}"):
            time.sleep(_POLL_SECONDS)
        order: tuple[Any, ...] | None = self._get(f"order/{self.stage}")
        return order

    @property
    def _num_arrived(self) -> int:
        return sum(self._seen)

    def _arrived(self) -> Iterator[tuple[int, Any]]:
        """What the other ranks have answered since the last look."""
        for rank in range(1, self.world):
            while self._is_there(key := self._answer(rank, self._seen[rank])):
                self._seen[rank] += 1
                answer = self._get(key)
                self.store.delete_key(key)
                yield answer

    def _answer(self, rank: int, number: int) -> str:
        return f"answer/{self.stage}/{rank}/{number}"

    def _put(self, key: str, value: object) -> None:
        with _explained():
            self.store.set(key, pickle.dumps(value))

    def _get(self, key: str) -> Any:  # noqa: ANN401 - whatever was put there
        with _explained():
            return pickle.loads(self.store.get(key))

    def _is_there(self, key: str) -> bool:
        with _explained():
            there: bool = self.store.check([key])
        return there


def _stop(rank: int, _signal: int, _frame: FrameType | None) -> None:
    """Leave at once, as after an interruption, when torchrun ends the job.

    The first two ranks say so: one of them is there whichever rank was killed.
    """
    if rank < 2:
        messages().print(
            "offaxis: torchrun is ending this job: another rank has failed or was killed (see "
            "torchrun's report), or the job was stopped; the same command goes on from here"
        )
    raise KeyboardInterrupt


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DistError as error:
        raise ResultsError(
            "the rendezvous of torchrun's ranks",
            expected="every rank and torchrun itself to be reachable until the end",
            found=str(error).splitlines()[0],
            do="run the same command again; what was finished is kept",
        ) from error
