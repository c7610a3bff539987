"""One figure of the table, the goal it is held to, and the clock it is taken by."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

Answer = TypeVar("Answer")


class Row(NamedTuple):
    """A figure: the median over repeats of one comparison, the smallest and the largest.

    Attributes:
        what: What was measured.
        against: What the figure is a multiple or a share of.
        case: On which matrices.
        seconds: CPU seconds of `what`, where it was timed.
        figure: The median.
        low: The smallest.
        high: The largest.
        goal: `>= 10` or `<= 8`; empty where there is none.
    """

    what: str
    against: str
    case: str
    seconds: float | None
    figure: float
    low: float
    high: float
    goal: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the figure reaches its goal."""
        if not self.goal:
            return None
        sign, number = self.goal.split()
        return self.figure >= float(number) if sign == ">=" else self.figure <= float(number)

    def as_dict(self) -> dict[str, object]:
        """The row with its verdict."""
        return {**self._asdict(), "met": self.is_met}


def row(
    what: str,
    against: str,
    case: str,
    figures: float | Sequence[float],
    goal: str = "",
    *,
    seconds: Sequence[float] = (),
) -> Row:
    """A row from the figures of all repeats, and the CPU seconds that `what` took in each."""
    found = [figures] if isinstance(figures, float) else figures
    taken = statistics.median(seconds) if seconds else None
    return Row(what, against, case, taken, statistics.median(found), min(found), max(found), goal)


def timed(work: Callable[[], Answer]) -> tuple[float, Answer]:
    """CPU seconds of this process, and what was computed in them."""
    begun = time.process_time()
    answer = work()
    return time.process_time() - begun, answer


def named(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def markdown(rows: Sequence[Row], spread: str = "min - max") -> str:
    lines = [
        f"| what | against | case | CPU s | figure | {spread} | goal | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        seconds = "" if r.seconds is None else f"{r.seconds:.3g}"
        met = {None: "", True: "yes", False: "**no**"}[r.is_met]
        lines.append(
            f"| {r.what} | {r.against} | {r.case} | {seconds} | {r.figure:.3g} "
            f"| {r.low:.3g} - {r.high:.3g} | {r.goal} | {met} |"
        )
    return "\n".join(lines) + "\n"
