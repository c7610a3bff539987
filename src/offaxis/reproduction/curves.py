"""From the readings of a results folder to one number a run, checkpoint and set of matrices."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64

from offaxis.measurement.options import relatives
from offaxis.report.frames import WEIGHTED_DIAGNOSTICS, linear_only
from offaxis.reproduction.statistics import layer_bootstrap
from offaxis.table import definition_settings

Numbers = Float64[np.ndarray, " steps"]

QUANTITIES = {
    ("sparsity", "sparsity"): "sparsity",
    ("sparsity", "density"): "update_density",
    ("rotation", "left_max"): "max_angle_left",
    ("rotation", "right_max"): "max_angle_right",
    ("rotation", "left_mean"): "mean_angle_left",
    ("rotation", "right_mean"): "mean_angle_right",
    ("spectral_shift", "spectral_shift"): "spectral_shift",
    ("masks", "principal_overlap"): "principal_overlap",
    ("masks", "low_magnitude_overlap"): "low_magnitude_overlap",
    ("masks", "odds_ratio"): "odds_ratio",
    ("norm", "frobenius_norm"): "norm",
    ("norm", "relative_norm"): "relative_norm",
    ("norm", "spectral_norm"): "spectral_norm",
    ("rank", "stable_rank"): "stable_rank",
    ("rank", "effective_rank"): "effective_rank",
    ("rank", "top16_energy"): "top16_energy",
    ("tail", "hill"): "hill",
    ("similarity", "right_to_final"): "similarity",
    ("similarity", "left_to_final"): "similarity_left",
    ("similarity", "right_increment"): "increment_similarity",
    ("similarity", "left_increment"): "increment_similarity_left",
    ("gate", "consistency"): "gate_consistency",
    ("principal_energy", "principal_energy"): "principal_energy",
}
"""The name in the study table of each reading that it takes; angles in radians.

Those of related work keep their names.
"""

_PUBLISHED_K = "16"
"""The K of the paper's similarity, whose name is plain; others carry theirs, as `similarity_k4`."""

KINDS = ("attention", "mlp")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_RELATIVES = relatives()
_RESAMPLES = 200


class Name(NamedTuple):
    """What a curve is of."""

    quantity: str
    matrices: str
    precision: str


@dataclass(frozen=True)
class Curve:
    """One quantity of one run over its checkpoints, ascending, averaged over matrices.

    Attributes:
        steps: Of the checkpoints.
        value: Mean over the matrices where it is defined.
        null: Mean of the primary null over the same matrices; NaN where one of them has none.
        null_name: Which it is; None where there is none.
        spread: Standard error of the value over matrices; NaN for one matrix.
    """

    steps: Numbers
    value: Numbers
    null: Numbers
    spread: Numbers
    null_name: str | None = None


def averaged(readings: pa.Table) -> dict[str, dict[Name, Curve]]:
    """Average what the study table takes of the readings, by run.

    The mean over matrices is plain, but for sparsity and density, which are weighted by the number
    of entries, as the paper's are. Token tables and vectors stay out.

    Args:
        readings: Of a results folder, as `offaxis.table.READINGS`.
    """
    cells: dict[str, dict[Name, dict[int, list[_Cell]]]] = {}
    for row in linear_only(_taken(readings)).to_pylist():
        if row["value"] is None:
            continue
        cell = _cell(row)
        for name in _names(row["diagnostic"], row["quantity"], row["definition"], row["role"]):
            held = cells.setdefault(row["run"], {}).setdefault(name, {})
            held.setdefault(row["step"], []).append(cell)
    return {
        run: {name: _curve(curves[name]) for name in sorted(curves)}
        for run, curves in cells.items()
    }


def kind_of(role: str) -> str:
    """Which of `KINDS` a matrix of that role is of."""
    return "attention" if role in _ATTENTION else "mlp"


class _Cell(NamedTuple):
    """One matrix's reading: what it weighs in the mean, and what its null says."""

    value: float
    weight: float
    null: float | None
    null_name: str | None


def _taken(table: pa.Table) -> pa.Table:
    """The rows of those diagnostics that the study table takes anything of."""
    known = {diagnostic for diagnostic, _ in QUANTITIES} | {*_RELATIVES}
    names = pa.array(sorted(known), pa.string())
    return table.filter(pc.is_in(table["diagnostic"], value_set=names))


def _cell(row: Mapping[str, Any]) -> _Cell:
    is_weighted = row["diagnostic"] in WEIGHTED_DIAGNOSTICS
    weight = float(row["rows"] * row["cols"]) if is_weighted else 1.0
    name = None if row["null"] == "none" else row["null"]
    return _Cell(row["value"], weight, row["null_mean"], name)


@cache
def _names(diagnostic: str, quantity: str, definition: str, role: str) -> tuple[Name, ...]:
    """The curves that a reading belongs to: of all linear matrices, and of its kind."""
    is_named = diagnostic in _RELATIVES
    called = quantity if is_named else QUANTITIES.get((diagnostic, quantity))
    if called is None:
        return ()
    settings = definition_settings(definition)
    if settings.get("K", _PUBLISHED_K) != _PUBLISHED_K:
        called = f"{called}_k{settings['K']}"
    storage = settings.get("as", "stored")
    return tuple(Name(called, matrices, storage) for matrices in ("linear", kind_of(role)))


def _curve(by_step: Mapping[int, list[_Cell]]) -> Curve:
    steps = sorted(by_step)
    value, null, spread = (
        np.array(column) for column in zip(*(_point(by_step[step]) for step in steps), strict=True)
    )
    named = by_step[steps[-1]][0].null_name
    return Curve(np.array(steps, np.float64), value, null, spread, named)


def _point(cells: list[_Cell]) -> tuple[float, float, float]:
    """The mean, that of the nulls, and the mean's standard error, of one checkpoint."""
    values = np.array([cell.value for cell in cells], np.float64)
    nulls = np.array([cell.null for cell in cells], np.float64)  # None is NaN
    weights = np.array([cell.weight for cell in cells])
    total = weights.sum()
    mean = float(weights @ values / total)
    # Of a weighted mean the linear part: what each matrix adds to it, as one of as many equals.
    moved = len(cells) * weights / total * (values - mean)
    spread = layer_bootstrap(moved, resamples=_RESAMPLES) if len(cells) > 1 else np.nan
    return mean, float(weights @ nulls / total), spread
