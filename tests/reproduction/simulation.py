"""Simulated studies: tables of numbers whose law is known, for the claims as they are declared."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from offaxis.report.verdicts import Verdict as Answer
from offaxis.reproduction.claims import Cell, Claim, Comparison, Declaration
from offaxis.reproduction.verdicts import Verdict

COLUMNS = ("draw", "arm", "point", "progress", "quantity", "matrices", "precision")
MIDDLES = {"gain_kept": 0.95} | dict.fromkeys(("weyl_used", "mirsky_used", "wedin_used"), 1.0)
"""About where quantities lie that are compared with a number, and not with other arms."""

VALUE = "value"
NUMBERS = (VALUE, "null", "null_name", "spread")


Nulls = Mapping[Cell, Mapping[str, Iterable[float]]]
"""Columns of nulls by name; the empty one stands for the primary one."""


def table(values: Mapping[Cell, Iterable[float]], nulls: Nulls):
    """A study table with one number a draw in every cell; cells without nulls have none."""
    rows = []
    for cell, column in values.items():
        named = sorted(nulls.get(cell, {}).items()) or [("", None)]
        for (name, beside), (draw, value) in itertools.product(named, enumerate(column)):
            null = (None, None) if beside is None else (float(beside[draw]), name or "chance")
            rows.append((draw, cell.arm, cell.point, None, *cell[2:], float(value), *null, None))
    return pa.table(
        dict(zip((*COLUMNS, *NUMBERS), map(list, zip(*rows, strict=True)), strict=True))
    )


def comparisons(claim: Claim) -> Iterator[Comparison]:
    yield claim
    yield from claim.controls


def every(declared: Declaration) -> Iterator[Comparison]:
    for claim in declared.claims:
        yield from comparisons(claim)


def without_controls(declared: Declaration) -> Declaration:
    """The published comparisons alone, under the same correction."""
    bare = tuple(claim.model_copy(update={"controls": ()}) for claim in declared.claims)
    return declared.model_copy(update={"claims": bare})


def uncorrected(declared: Declaration) -> Declaration:
    """The same claims, each with the whole share of misses for itself."""
    return declared.model_copy(update={"misses": declared.misses * len(declared.claims)})


def differences_of_arms(declared: Declaration) -> Declaration:
    """Every contrast that an exchange of arms makes false, as a claim of its own without margin."""
    found = {
        (comparison.name(weights), comparison.quantity, comparison.precision): Claim(
            id=f"{comparison.quantity}, {comparison.name(weights)}, {comparison.precision}",
            figure="none",
            sentence="none",
            words="none",
            quantity=comparison.quantity,
            matrices=comparison.matrices,
            precision=comparison.precision,
            contrasts=({f"{term.arm}@{term.point}": w for term, w in weights.items()},),
            scale=comparison.scale,
            direction="above" if comparison.direction == "above" else "below",
            margin=1.0 if comparison.scale == "ratio" else 0.0,
            reason="none",
        )
        for claim in declared.claims
        for comparison in comparisons(claim)
        for weights in comparison.weights
        if not sum(weights.values())
    }
    return declared.model_copy(update={"claims": tuple(found.values())})


def exchanged(
    declared: Declaration, draws: int, rng: np.random.Generator, *, exchange: bool = True
):
    """A world where the arms of every draw, each as a whole, have changed places at random.

    How far arms and draws differ is drawn anew for every quantity, from a tenth of its smallest
    margin to ten times that. Nulls have the law of the numbers.
    """
    names = _null_names(every(declared))
    arms = sorted({cell.arm for cell in declared.cells()})
    levels = rng.normal(size=len(arms))
    places = [rng.permutation(len(arms)) for _ in range(draws)]
    level = {arm: levels[[place[i] for place in places]] for i, arm in enumerate(arms)}
    sizes = {
        key: size * 10 ** rng.uniform(-1, 1) for key, size in _margins(every(declared)).items()
    }
    values, nulls = {}, {}
    for cell in sorted(declared.cells()):
        size, middle = sizes[cell.quantity], MIDDLES.get(cell.quantity, 0.3)
        values[cell] = middle * np.exp(size * (level[cell.arm] + rng.normal(size=draws)))
        nulls[cell] = {name: middle * np.exp(size * rng.normal(size=draws)) for name in names[cell]}
    return table(values, nulls)


Target = Callable[[Comparison], float]


def solved(asked: Iterable[Comparison], target: Target, draws: int, rng: np.random.Generator):
    """A world where every contrast has the mean that is asked for; nothing else is in it.

    Numbers scatter by a tenth of the margins, so that an equality that is only just missed is as
    easily mistaken for one that holds as the level allows.
    """
    asked = list(asked)
    names = _null_names(asked)
    parts = {(cell, part) for cell in names for part in (VALUE, *names[cell])}
    places = {place: i for i, place in enumerate(sorted(parts))}
    equations = [equation for c in asked for equation in _equations(c, target(c), places)]
    left, right = (np.array(side) for side in zip(*equations, strict=True))
    levels = np.linalg.lstsq(left, right, rcond=None)[0]
    assert np.allclose(left @ levels, right), "what is asked for contradicts itself"
    is_log = {cell: c.scale == "ratio" for c in asked for cell in c.cells}
    sizes = _margins(asked)
    columns: dict[Cell, dict[str, np.ndarray]] = {}
    for (cell, part), place in places.items():
        column = levels[place] + 0.1 * sizes[cell.quantity] * rng.normal(size=draws)
        columns.setdefault(cell, {})[part] = np.exp(column) if is_log[cell] else column
    return table({cell: found.pop(VALUE) for cell, found in columns.items()}, columns)


def on_the_bounds(declared: Declaration, draws: int, rng: np.random.Generator):
    """A world where every published contrast lies on a bound of its region: nothing is true."""
    return solved(declared.claims, lambda c: _bound(c, int(rng.choice([-1, 1]))), draws, rng)


def inside(comparison: Comparison) -> float:
    """A mean that is well inside the region, on the scale of the contrast."""
    return _at(comparison, {"within": 0.0, "below": -3.0}.get(comparison.direction, 3.0))


def outside(comparison: Comparison) -> float:
    """A mean that is well outside of the region."""
    return _at(
        comparison,
        {"below": 1.0, "above": -1.0, "within": 3.0, "beyond": 0.0}[comparison.direction],
    )


def holding(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.claim.id for verdict in verdicts if verdict.answer is Answer.HOLDS]


def holding_as_published(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.claim.id for verdict in verdicts if verdict.as_published is Answer.HOLDS]


def _null_names(asked: Iterable[Comparison]) -> dict[Cell, set[str]]:
    """The nulls that are read beside every cell; the primary one where none is."""
    found: dict[Cell, set[str]] = {}
    for comparison in asked:
        for cell in comparison.cells:
            names = found.setdefault(cell, set())
            names |= {comparison.null} if comparison.of == "excess" else set()
    return {cell: names or {""} for cell, names in found.items()}


def _margins(asked: Iterable[Comparison]) -> dict[str, float]:
    """The smallest margin of every quantity, on the scale of its contrasts."""
    found: dict[str, float] = {}
    for comparison in asked:
        for cell in comparison.cells:
            margin = _margin(comparison)
            found[cell.quantity] = min(found.get(cell.quantity, margin), margin)
    return found


def _margin(comparison: Comparison) -> float:
    """A margin on the scale of the contrast; that of none counts as a thirtieth."""
    return _size(comparison)(comparison.margin) or 1 / 30


def _size(comparison: Comparison) -> Callable[[float], float]:
    return math.log if comparison.scale == "ratio" else float


def _at(comparison: Comparison, margins: float) -> float:
    """So many margins from the baseline."""
    return _size(comparison)(comparison.neutral) + margins * _margin(comparison)


def _bound(comparison: Comparison, either: int) -> float:
    sign = {"above": 1, "below": -1}.get(comparison.direction, either)
    size = _size(comparison)
    return size(comparison.neutral) + sign * size(comparison.margin)


def _equations(comparison: Comparison, mean: float, places: Mapping[tuple[Cell, str], int]):
    for weights in comparison.weights:
        row = np.zeros(len(places))
        for term, weight in weights.items():
            cell = comparison.cell(term)
            row[places[cell, VALUE]] += weight
            if comparison.of == "excess":
                row[places[cell, comparison.null]] -= weight
        yield row, mean
