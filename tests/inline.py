"""An executor that is the test's own process, where processes are not what a test is about."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from offaxis.measurement.executors import Executor, open_executor
from offaxis.measurement.executors.base import Answer, Limits, Work


class Inline:
    """One item after another; what would have travelled is copied as if it had."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None: ...

    def as_done(
        self,
        function: Callable[[Work], Answer],
        work: Sequence[Work],
        peaks: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        self.limits.require_room(peaks or ())
        for position, item in enumerate(work):
            there, arrived = _sent((function, item))
            yield position, _sent(there(arrived))


def open_inline(engine: str, workers: int | None, max_memory: int | None) -> Executor:
    """In the place of `open_executor`: a pool of one worker is this process."""
    if (engine, workers) != ("pool", 1):
        return open_executor(engine, workers, max_memory)
    return Inline(Limits(workers, max_memory))


def _sent(item: object) -> Any:
    return pickle.loads(pickle.dumps(item))
