"""Means over draws, with the interval between draws: what every figure shows of the study table.

The intervals are one by one, at 95 %, and uncorrected: they are for reading a curve. Verdicts have
their own, corrected for the number of claims.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from offaxis.reproduction import statistics
from offaxis.reproduction.claims import Cell
from offaxis.reproduction.contrasts import by_cell
from offaxis.reproduction.curves import Name

MISSES = 0.05
"""The share of intervals that miss, each by itself."""

Numbers = Float64[np.ndarray, " draws"]
Steps = Float64[np.ndarray, "..."]
Path = tuple[Steps, Steps, Steps]
"""Progress, values and nulls of one draw along its checkpoints."""


class Estimate(NamedTuple):
    """One number over draws.

    Attributes:
        mean: Over the draws; of logarithms, and taken back, where that was asked for.
        low: The interval's lower end; None where there is none, as for a single draw.
        high: Its upper end.
        draws: How many there are.
        null: The mean of their nulls; None where one of them has none.
    """

    mean: float
    low: float | None
    high: float | None
    draws: int
    null: float | None


class Averages:
    """A study table, asked for its numbers over draws.

    Raises:
        ResultsError: If the table lacks a column or contradicts itself.
    """

    def __init__(self, table: pa.Table) -> None:
        self.cells = by_cell(table)
        self.arms = frozenset(cell.arm for cell in self.cells)
        self.draws = len(set(table["draw"].to_pylist()))
        self._paths = _paths(table)

    def at(self, arm: str, name: Name, point: str = "end", *, log: bool = False) -> Estimate | None:
        """A number at one point of an arm's way; None where no draw has it."""
        found = self.cells.get(Cell(arm, point, *name))
        if found is None or not found.values:
            return None
        beside = found.null("")
        values = np.array(list(found.values.values()), np.float64)
        nulls = np.array([beside.get(draw, np.nan) for draw in found.values], np.float64)
        return estimate(values, nulls, log=log)

    def along(self, arm: str, name: Name, *, log: bool = False) -> list[tuple[float, Estimate]]:
        """The curve of an arm over its progress, in [0, 1].

        The progress is that of its first draw; a draw whose checkpoints lie elsewhere is read on a
        straight line between them, never beyond its ends.
        """
        paths = self._paths.get((arm, name), [])
        if not paths:
            return []
        return list(_averaged(paths, paths[0][0], log=log))

    def null_names(self, name: Name, arms: Sequence[str]) -> set[str]:
        """The primary nulls that stand beside a quantity of some arms."""
        return {
            next(iter(readings.nulls))
            for cell, readings in self.cells.items()
            if cell.arm in arms and cell[2:] == name and readings.nulls
        }


def estimate(values: Numbers, nulls: Numbers, *, log: bool = False) -> Estimate | None:
    """Average what several draws have of one number.

    Args:
        values: One a draw, without NaN.
        nulls: Beside them; NaN where there is none.
        log: Whether in logarithms; then draws that are not positive are left out.
    """
    if log:
        kept = values > 0
        values, nulls = np.log(values[kept]), nulls[kept]
    if not len(values):
        return None
    found = statistics.moments(values)
    ends = (None, None) if found is None else statistics.mean_interval(found, MISSES)
    mean, low, high = (_back(number, log) for number in (float(values.mean()), *ends))
    assert mean is not None  # only the ends of an interval may be missing
    null = float(nulls.mean())
    return Estimate(mean, low, high, len(values), null if np.isfinite(null) else None)


def _back(number: float | None, log: bool) -> float | None:
    return float(np.exp(number)) if log and number is not None else number


def _averaged(paths: Sequence[Path], grid: Steps, *, log: bool) -> Iterator[tuple[float, Estimate]]:
    """The estimates at every place of a grid that has any."""
    read = [
        [np.interp(grid, x, y, left=np.nan, right=np.nan) for y in (value, null)]
        for x, value, null in paths
    ]
    for place, progress in enumerate(grid.tolist()):
        values, nulls = (np.array([path[i][place] for path in read]) for i in (0, 1))
        there = np.isfinite(values)
        found = estimate(values[there], nulls[there], log=log)
        if found is not None:
            yield progress, found


def _paths(table: pa.Table) -> dict[tuple[str, Name], list[Path]]:
    """The ways of all draws along their checkpoints, by arm and quantity."""
    found: dict[tuple[str, Name], dict[int, list[tuple[float, float, float]]]] = defaultdict(dict)
    columns = ("draw", "arm", "point", "progress", *Name._fields, "value", "null")
    lists = (table[name].to_pylist() for name in columns)
    for draw, arm, point, progress, *name, value, null in zip(*lists, strict=True):
        if point.startswith("step=") and progress is not None and value is not None:
            beside = np.nan if null is None else null
            by_draw = found[arm, Name(*name)]
            by_draw.setdefault(draw, []).append((progress, value, beside))
    return {
        key: [_columns(by_draw[draw]) for draw in sorted(by_draw)] for key, by_draw in found.items()
    }


def _columns(points: list[tuple[float, float, float]]) -> Path:
    progress, value, null = np.array(sorted(points), np.float64).T
    return progress, value, null
