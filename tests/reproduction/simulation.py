"""Simulated studies: tables of numbers whose law is known, for the claims as they are declared."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from offaxis.reproduction.claims import Cell, Claim, Comparison, Declaration
from offaxis.reproduction.verdicts import Verdict
from offaxis.report.verdicts import Verdict as Answer

COLUMNS = ("draw", "arm", "point", "progress", "quantity", "matrices", "precision")
NUMBERS = ("value", "null", "null_name", "spread")


def table(values: Mapping[Cell, Iterable[float]], nulls: Mapping[Cell, Iterable[float]]):
    """A study table with one number a draw in every cell; cells without nulls have none."""
    rows = []
    for cell, column in values.items():
        beside = list(nulls.get(cell, ()))
        for draw, value in enumerate(column):
            null = (beside[draw], "chance") if beside else (None, None)
            rows.append((draw, cell.arm, cell.point, None, *cell[2:], float(value), *null, None))
    return pa.table(
        dict(zip((*COLUMNS, *NUMBERS), map(list, zip(*rows, strict=True)), strict=True))
    )


def comparisons(claim: Claim) -> Iterator[Comparison]:
    yield claim
    yield from claim.controls


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

    How far arms and draws differ is drawn anew for every quantity, from a tenth of its largest
    margin to ten times that. Nulls have the law of the numbers.
    """
    arms = sorted({cell.arm for cell in declared.cells()})
    levels = rng.normal(size=len(arms))
    places = [
        rng.permutation(len(arms)) if exchange else np.arange(len(arms)) for _ in range(draws)
    ]
    level = {arm: levels[[place[i] for place in places]] for i, arm in enumerate(arms)}
    sizes = {key: size * 10 ** rng.uniform(-1, 1) for key, size in _margins(declared).items()}
    values, nulls = {}, {}
    for cell in sorted(declared.cells()):
        size, middle = sizes[cell.quantity], {"gain_kept": 0.95}.get(cell.quantity, 0.3)
        values[cell] = middle * np.exp(size * (level[cell.arm] + rng.normal(size=draws)))
        nulls[cell] = middle * np.exp(size * rng.normal(size=draws))
    return table(values, nulls)


def on_the_bounds(declared: Declaration, draws: int, rng: np.random.Generator):
    """A world where every published contrast lies on the bound of its region: nothing is true.

    Numbers scatter by a tenth of the margin, so that an equality that is only just missed is as
    easily mistaken for one that holds as the level allows.
    """
    cells = sorted({cell for claim in declared.claims for cell in claim.cells})
    is_log = {cell: claim.scale == "ratio" for claim in declared.claims for cell in claim.cells}
    equations = [e for claim in declared.claims for e in _bounds(claim, cells, rng)]
    left, right = (np.array(side) for side in zip(*equations, strict=True))
    levels = np.linalg.lstsq(left, right, rcond=None)[0]
    assert np.allclose(left @ levels, right), "the bounds of two claims exclude each other"
    sizes = _margins(declared)
    values = {}
    for cell, level in zip(cells, levels, strict=True):
        column = level + 0.1 * sizes[cell.quantity] * rng.normal(size=draws)
        values[cell] = np.exp(column) if is_log[cell] else column
    return table(values, {cell: np.ones(draws) for cell in cells if is_log[cell]})


def holding(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.claim.id for verdict in verdicts if verdict.answer is Answer.HOLDS]


def holding_as_published(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.claim.id for verdict in verdicts if verdict.as_published is Answer.HOLDS]


def _margins(declared: Declaration) -> dict[str, float]:
    """The largest margin of every quantity, as a share of the number or on a log scale."""
    found: dict[str, float] = {}
    for claim in declared.claims:
        for comparison in comparisons(claim):
            margin = comparison.margin
            size = math.log(margin) if comparison.scale == "ratio" else margin
            for cell in comparison.cells:
                found[cell.quantity] = max(found.get(cell.quantity, 0.01), size)
    return found


def _bounds(claim: Claim, cells: list[Cell], rng: np.random.Generator):
    """The equations that put the contrasts of a claim on a bound, on either side where two are."""
    size = math.log if claim.scale == "ratio" else float
    neutral = 1.0 if claim.scale == "ratio" else 0.0
    baseline = size(neutral if claim.baseline is None else claim.baseline)
    sign = {"above": 1, "below": -1}.get(claim.direction, int(rng.choice([-1, 1])))
    for weights in claim.weights:
        row = np.zeros(len(cells))
        for term, weight in weights.items():
            row[cells.index(claim.cell(term))] = weight
        yield row, baseline + sign * size(claim.margin)
