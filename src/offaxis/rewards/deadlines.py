"""Processes that answer in time or are replaced: for functions that may never return."""

import contextlib
import multiprocessing
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from offaxis.errors import ResultsError

# A process first imports what its function needs; only then does it take work.
_START_SECONDS = 120.0


class DeadlinePool:
    """Calls a function in processes of its own; a call past its deadline is killed.

    A thread cannot be ended, and a signal is not seen inside a long call of C code; a process can
    be killed at any point. Processes are begun by the first call, and end with this object.

    Args:
        function: What is called, importable by name.
        seconds: The deadline of a call, counted from when a process has begun it.
        workers: How many processes.
    """

    def __init__(self, function: Callable[[Any], Any], *, seconds: float, workers: int) -> None:
        self._function, self._seconds, self._count = function, seconds, workers
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _end, self._workers)

    def map(self, arguments: Sequence[Any]) -> list[Any]:
        """The results in order; None for a call that was killed, or that raised.

        Raises:
            ResultsError: If a process does not come up at all.
        """
        results: list[Any] = [None] * len(arguments)
        waiting = deque(enumerate(arguments))
        while len(self._workers) < min(self._count, len(arguments)):
            self._workers.append(_Worker(self._function))
        while waiting or any(worker.is_busy for worker in self._workers):
            for worker in self._workers:
                if worker.is_ready and not worker.is_busy and waiting:
                    worker.begin(*waiting.popleft(), self._seconds)
            self._collect(results)
        return results

    def close(self) -> None:
        """End the processes now."""
        self._finalizer()

    def _collect(self, results: list[Any]) -> None:
        """Wait for what comes first, an answer or a deadline, and deal with it."""
        awaited = [w for w in self._workers if w.is_busy or not w.is_ready]
        left = min(w.deadline for w in awaited) - time.monotonic()
        answered = wait([w.connection for w in awaited], max(left, 0.0))
        for place, worker in enumerate(self._workers):
            if worker.connection in answered:
                if not worker.receive(results):
                    self._replace(place)
            elif worker in awaited and time.monotonic() >= worker.deadline:
                if not worker.is_ready:
                    raise _not_begun(f"none after {_START_SECONDS:.0f} s")
                self._replace(place)

    def _replace(self, place: int) -> None:
        was_ready = self._workers[place].is_ready
        self._workers[place].kill()
        if not was_ready:  # it would die again
            raise _not_begun("it ended")
        self._workers[place] = _Worker(self._function)


class _Worker:
    """A process, and what it is doing."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()
        self.deadline = time.monotonic() + _START_SECONDS
        self.is_ready = False
        self._call: int | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return self._call is not None

    def begin(self, call: int, argument: Any, seconds: float) -> None:  # noqa: ANN401 - any call
        """Send a call; a process that has died meanwhile shows when its answer is awaited."""
        self._call, self.deadline = call, time.monotonic() + seconds
        with contextlib.suppress(OSError):
            self.connection.send(argument)

    def receive(self, results: list[Any]) -> bool:
        """Take what has come; False where the process has died instead."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            return False
        if self._call is None:
            self.is_ready = True
        else:
            results[self._call], self._call = answer, None
        return True

    def kill(self) -> None:
        """End the process whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self.connection.close()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Say that it is there, then answer calls until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    connection.send(None)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            argument = connection.recv()
            try:
                answer = function(argument)
            except Exception:
                answer = None
            connection.send(answer)


def _end(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()


def _not_begun(found: str) -> ResultsError:
    return ResultsError(
        "a process that judges completions",
        expected="it to begin",
        found=found,
        do="run the same command again, with more memory or fewer rewards.workers",
    )
