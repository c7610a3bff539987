"""From the study table to contrasts: one number a draw, paired within the draw."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from offaxis.errors import ResultsError
from offaxis.reproduction.claims import Cell, Comparison, Term
from offaxis.reproduction.statistics import Sample

_COLUMNS = (*Cell._fields, "draw", "value", "null", "null_name")


@dataclass
class Reading:
    """A number with the nulls that stand beside it, by name."""

    value: float | None
    nulls: dict[str, float | None] = field(default_factory=dict)

    def null(self, name: str) -> float | None:
        """The null of that name; without a name the only one, none where there are several."""
        if not name and len(self.nulls) == 1:
            return next(iter(self.nulls.values()))
        return self.nulls.get(name)


Study = Mapping[Cell, Mapping[int, Reading]]
Column = Mapping[int, float]
Part = Literal["value", "null", "excess"]


@dataclass(frozen=True)
class Contrast:
    """One contrast over the draws that have all of its arms.

    Attributes:
        name: What is weighed against what.
        sample: One number a draw, in their order; for ratios its logarithm. The baseline is not
            taken off.
        draws: How many draws the whole study has.
        null: The same contrast of the nulls, as a mean; None where a null is missing.
        missing: Why there is no draw; empty where there is one.
    """

    name: str
    sample: Sample
    draws: int
    null: float | None
    missing: str


def by_cell(table: pa.Table) -> Study:
    """Sort a study table by where its numbers stand, then by draw.

    Raises:
        ResultsError: If a column is missing, or two rows say different things of one number.
    """
    absent = [name for name in _COLUMNS if name not in table.column_names]
    if absent:
        raise _unusable(f"no column {', '.join(absent)}")
    study: dict[Cell, dict[int, Reading]] = {}
    for row in table.select(list(_COLUMNS)).to_pylist():
        _add(study, row)
    return study


def contrasts(study: Study, comparison: Comparison) -> Iterator[Contrast]:
    """Yield the contrasts of a comparison."""
    draws = len({draw for readings in study.values() for draw in readings})
    for weights in comparison.weights:
        columns = {term: _column(study, comparison, term, comparison.of) for term in weights}
        found = _weighed(columns, weights)
        nulls = _weighed({t: _column(study, comparison, t, "null") for t in weights}, weights)
        has_null = comparison.of == "value" and bool(found) and found.keys() <= nulls.keys()
        yield Contrast(
            comparison.name(weights),
            np.array(list(found.values()), dtype=np.float64),
            draws,
            float(np.mean([nulls[draw] for draw in found])) if has_null else None,
            "" if found else _missing(study, comparison, columns),
        )


def _column(study: Study, comparison: Comparison, term: Term, part: Part) -> Column:
    """The numbers of one arm by draw, as logarithms for ratios; without those not defined."""
    numbers = {}
    for draw, reading in study.get(comparison.cell(term), {}).items():
        null = reading.null(comparison.null)
        nothing = 1.0 if comparison.scale == "ratio" else 0.0
        one = null if part == "null" else reading.value
        number = _difference(one, null if part == "excess" else nothing, comparison)
        if number is not None:
            numbers[draw] = number
    return numbers


def _difference(number: float | None, less: float | None, comparison: Comparison) -> float | None:
    if number is None or less is None:
        return None
    if comparison.scale == "difference":
        return number - less
    return math.log(number / less) if number > 0 and less > 0 else None


def _weighed(columns: Mapping[Term, Column], weights: Mapping[Term, float]) -> Column:
    """One number a draw, of the draws that have every arm, in their order."""
    shared = set.intersection(*(set(column) for column in columns.values()))
    return {
        draw: sum(weight * columns[term][draw] for term, weight in weights.items())
        for draw in sorted(shared)
    }


def _missing(study: Study, comparison: Comparison, columns: Mapping[Term, Column]) -> str:
    """Why no draw has the whole contrast."""
    arms = {cell.arm for cell in study}
    if absent := [term.arm for term in columns if term.arm not in arms]:
        return f"not run: {_listed(absent)}"
    empty = [term for term, column in columns.items() if not column]
    places = _listed([f"{term.arm} at {term.point}" for term in empty])
    what = f"{comparison.quantity} ({comparison.matrices}, {comparison.precision})"
    if not empty:
        return f"never measured in one draw: {what} of {_listed([t.arm for t in columns])}"
    if any(comparison.cell(term) not in study for term in empty):
        return f"not measured: {what} of {places}"
    return f"not defined, or without the null that is asked for: {what} of {places}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _add(study: dict[Cell, dict[int, Reading]], row: Mapping[str, Any]) -> None:
    cell = Cell(*(str(row[name]) for name in Cell._fields))
    value, null, name = _finite(row["value"]), _finite(row["null"]), row["null_name"] or ""
    readings = study.setdefault(cell, {})
    reading = readings.setdefault(int(row["draw"]), Reading(value))
    if reading.value != value or reading.nulls.get(name, null) != null:
        raise _unusable(f"draw {row['draw']} has {cell} twice, with different numbers")
    if null is not None:
        reading.nulls[name] = null


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(number)


def _unusable(found: str) -> ResultsError:
    return ResultsError(
        "the study table",
        expected="one row a number, with the columns that docs/reproduction.md names",
        found=found,
        do="write the table again with `offaxis reproduce`",
    )
