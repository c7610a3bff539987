"""From the study table to contrasts: one number a draw, paired within the draw."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offaxis.errors import ResultsError
from offaxis.reproduction.claims import Cell, Comparison, Term
from offaxis.reproduction.statistics import Sample

Column = dict[int, float]
"""A number by draw."""


@dataclass
class Readings:
    """The defined numbers of one cell, and the nulls beside them, the primary one first."""

    values: Column = field(default_factory=dict)
    nulls: dict[str, Column] = field(default_factory=dict)

    def null(self, name: str) -> Column:
        """The null of that name; without a name the primary one."""
        return self.nulls.get(name or next(iter(self.nulls), ""), {})


Study = Mapping[Cell, Readings]


@dataclass(frozen=True)
class Contrast:
    """One contrast over the draws that have all of its arms.

    Attributes:
        name: What is weighed against what.
        arms: The mean of every arm over the same draws, by its label.
        sample: One number a draw, in their order; for ratios its logarithm. The baseline is not
            taken off.
        draws: How many draws the whole study has.
        null: The same contrast of the nulls, as a mean; None where a null is missing.
        missing: Why there is no draw; empty where there is one.
    """

    name: str
    arms: Mapping[str, float]
    sample: Sample
    draws: int
    null: float | None
    missing: str


def by_cell(table: pa.Table) -> Study:
    """Sort a study table by where its numbers stand, then by draw.

    Raises:
        ResultsError: If a column is missing, or two rows say different things of one number.
    """
    wanted = (*Cell._fields, "draw", "value", "null", "null_name")
    absent = [name for name in wanted if name not in table.column_names]
    if absent:
        raise _unusable(f"no column {', '.join(absent)}")
    for name in ("value", "null"):
        numbers = table[name].cast(pa.float64())
        finite = pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
        table = table.set_column(table.column_names.index(name), name, finite)
    study: dict[Cell, Readings] = {}
    for *place, draw, value, null, null_name in zip(
        *(table[name].to_pylist() for name in wanted), strict=True
    ):
        readings = study.setdefault(Cell(*place), Readings())
        beside = readings.nulls.setdefault(null_name, {}) if null_name else {}
        for column, number in ((readings.values, value), (beside, null)):
            if number is not None and column.setdefault(draw, number) != number:
                raise _unusable(f"draw {draw} has {Cell(*place)} twice, with different numbers")
    return study


def contrasts(study: Study, comparison: Comparison) -> Iterator[Contrast]:
    """Yield the contrasts of a comparison."""
    draws = len({draw for readings in study.values() for draw in readings.values})
    for weights in comparison.weights:
        columns = {term: _column(study, comparison, term, comparison.of) for term in weights}
        found = _weighed(columns, weights)
        null = None
        if comparison.of == "value":
            nulls = _weighed({t: _column(study, comparison, t, "null") for t in weights}, weights)
            if found and found.keys() <= nulls.keys():
                null = float(np.mean([nulls[draw] for draw in found]))
        yield Contrast(
            comparison.name(weights),
            _means(study, comparison, weights, found),
            np.array(list(found.values()), dtype=np.float64),
            draws,
            null,
            "" if found else _missing(study, comparison, columns),
        )


def _column(
    study: Study, comparison: Comparison, term: Term, part: Literal["value", "null", "excess"]
) -> Column:
    """The numbers of one arm, as logarithms for ratios; without those not defined."""
    readings = study.get(comparison.cell(term), Readings())
    nulls = readings.null(comparison.null)
    column = nulls if part == "null" else readings.values
    if comparison.scale == "ratio":
        column, nulls = (
            {draw: math.log(number) for draw, number in numbers.items() if number > 0}
            for numbers in (column, nulls)
        )
    if part == "excess":
        return {draw: column[draw] - nulls[draw] for draw in column.keys() & nulls.keys()}
    return column


def _weighed(columns: Mapping[Term, Column], weights: Mapping[Term, float]) -> Column:
    """One number a draw, of the draws that have every arm, in their order."""
    shared = set.intersection(*(set(column) for column in columns.values()))
    return {
        draw: sum(weight * columns[term][draw] for term, weight in weights.items())
        for draw in sorted(shared)
    }


def _means(
    study: Study, comparison: Comparison, weights: Mapping[Term, float], found: Column
) -> dict[str, float]:
    """The plain mean of every arm over the draws that were found."""
    if not found:
        return {}
    values = {term.label: study[comparison.cell(term)].values for term in weights}
    return {
        label: sum(column[draw] for draw in found) / len(found) for label, column in values.items()
    }


def _missing(study: Study, comparison: Comparison, columns: Mapping[Term, Column]) -> str:
    """Why no draw has the whole contrast."""
    arms = {cell.arm for cell in study}
    if absent := [term.arm for term in columns if term.arm not in arms]:
        return f"not run: {_listed(absent)}"
    what = f"{comparison.quantity} ({comparison.matrices}, {comparison.precision})"
    empty = [term for term, column in columns.items() if not column]
    labels = _listed([term.label for term in empty or columns])
    if not empty:
        return f"never measured in one draw: {what} of {labels}"
    if any(comparison.cell(term) not in study for term in empty):
        return f"not measured: {what} of {labels}"
    doubts = {"excess": ", or without its null"}.get(comparison.of, "")
    doubts += ", or not positive" if comparison.scale == "ratio" else ""
    return f"not defined{doubts}: {what} of {labels}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _unusable(found: str) -> ResultsError:
    return ResultsError(
        "the study table",
        expected="one row a number, with the columns that docs/reproduction.md names",
        found=found,
        do="write the table again with `offaxis reproduce`",
    )
