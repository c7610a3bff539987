"""What every executor offers: one function over many items, the answers as they are done."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

from offaxis.errors import UsageError

Work = TypeVar("Work")
Answer = TypeVar("Answer")
Handle = TypeVar("Handle")


@runtime_checkable
class Executor(Protocol):
    """Processes that end with a `with` block. No answer depends on how many there are, or where."""

    def __enter__(self) -> "Executor":
        """Make the processes ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes, at once where the block ended in an error."""

    def as_done(
        self,
        function: Callable[[Work], Answer],
        work: Sequence[Work],
        peaks: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Call the function on every item; yield positions and answers in any order.

        Args:
            function: Importable by name; what it raises is raised here.
            work: Items that travel well: paths and settings, never arrays.
            peaks: Bytes that each item holds at most while it runs; little by default.

        Raises:
            UsageError: If an item holds more than the budget, before any is begun.
            ResultsError: If a process was killed from outside and the engine could not mend it.
        """


@dataclass(frozen=True)
class Limits:
    """How much may run at once; None is no limit of ours.

    Attributes:
        tasks: How many.
        memory_bytes: The sum of their peaks.
    """

    tasks: int | None = None
    memory_bytes: int | None = None

    def require_room(self, peaks: Sequence[int]) -> None:
        """Refuse work that could never begin.

        Raises:
            UsageError: If an item holds more than the budget.
        """
        largest = max(peaks, default=0)
        if self.memory_bytes is not None and largest > self.memory_bytes:
            raise UsageError(
                "the memory budget (--max-memory)",
                expected=f"room for the largest matrix: {largest:,} bytes",
                found=f"{self.memory_bytes:,} bytes",
                do="allow more memory, or measure on a machine that has it",
            )

    def is_full(self, num_running: int) -> bool:
        """Whether no further task may begin."""
        return self.tasks is not None and num_running >= self.tasks

    def room(self, held: int) -> int | float:
        """Bytes that are left."""
        return float("inf") if self.memory_bytes is None else self.memory_bytes - held


def in_turn(
    peaks: Sequence[int],
    limits: Limits,
    begin: Callable[[int], Handle],
    ended: Callable[[Collection[Handle]], Iterable[Handle]],
) -> Iterator[tuple[int, Handle]]:
    """Begin each item when there is room for it, the earlier ones first; yield what has ended.

    Args:
        peaks: Bytes of each item.
        limits: What may run at once.
        begin: Begins the item at a position.
        ended: Waits until some of the running items have ended, and names those.

    Raises:
        UsageError: If an item holds more than the budget, before any is begun.
    """
    limits.require_room(peaks)
    smallest = min(peaks, default=0)
    waiting = dict.fromkeys(range(len(peaks)))
    running: dict[Handle, int] = {}
    held = 0
    while waiting or running:
        admitted: list[int] = []
        for position in waiting:
            if limits.is_full(len(running) + len(admitted)) or limits.room(held) < smallest:
                break
            if peaks[position] <= limits.room(held):
                admitted.append(position)
                held += peaks[position]
        for position in admitted:
            del waiting[position]
            running[begin(position)] = position
        for handle in list(ended(running.keys())):
            position = running.pop(handle)
            held -= peaks[position]
            yield position, handle
