"""Whether runs from one anchor change the same weights, and which kinds of matrices they change."""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from offaxis.measurement.compare import compare_command
from offaxis.report.frames import LEFT_OUT_ROLES
from offaxis.reproduction.curves import KINDS, kind_of
from offaxis.reproduction.probes.base import Probe, Row, Runs

_ARMS = ("sft", "opd", "rlvr", "rlvr-again", "rlvr-random")
_ALL = "all-runs"


def _ask(runs: Runs, out: Path) -> Sequence[Row]:
    compared = compare_command([run.root for run in runs.values()], console=_nowhere())["rows"]
    arms = {runs[arm].root.name: arm for arm in _ARMS if arm in runs}
    rows = [row for row in compared if row["role"] not in LEFT_OUT_ROLES]
    return [*_agreements(rows, arms), *_shares(rows, arms)]


def _agreements(rows: Sequence[Row], arms: Mapping[str, str]) -> Iterator[Row]:
    """Means over matrices, each with what the gate gives, and with what densities alone do."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["quantity"] != "energy_share" and row["value"] is not None:
            for matrices in ("linear", kind_of(row["role"])):
                key = (*_named(row, arms), matrices)
                groups.setdefault(key, []).append(row)
    for (arm, quantity, matrices), found in groups.items():
        value = fmean(row["value"] for row in found)
        for null, column in (("stratified", "null_mean"), ("chance", "chance")):
            nulls = [row[column] for row in found]
            beside = None if None in nulls else fmean(nulls)
            yield _row(arm, quantity, matrices, value, null=beside, null_name=null)


def _named(row: Row, arms: Mapping[str, str]) -> tuple[str, str]:
    """The arm and the quantity: of two runs, or how many of all changed an entry."""
    quantity, first, second = row["quantity"], row["first"], row["second"]
    if quantity == "consensus":
        return _ALL, f"changed_by_{first.replace(' ', '_')}"
    if quantity == "jaccard":
        return "-and-".join(arm for run, arm in arms.items() if run in (first, second)), quantity
    return f"{arms[first]}-in-{arms[second]}", quantity


def _shares(rows: Sequence[Row], arms: Mapping[str, str]) -> Iterator[Row]:
    """Of each run's energy in linear matrices the part in those of a kind, beside their size."""
    for run, arm in arms.items():
        own = [row for row in rows if row["quantity"] == "energy_share" and row["first"] == run]
        whole = {column: sum(row[column] or 0.0 for row in own) for column in ("value", "chance")}
        for kind in KINDS:
            part = [row for row in own if kind_of(row["role"]) == kind]
            value, size = (
                sum(row[column] or 0.0 for row in part) / whole[column] if whole[column] else None
                for column in ("value", "chance")
            )
            if value is not None:
                yield _row(arm, "energy_share", kind, value, null=size, null_name="isotropic")


def _row(arm: str, quantity: str, matrices: str, value: float, **null: Any) -> Row:  # noqa: ANN401
    return {
        "arm": arm,
        "point": "end",
        "progress": 1.0,
        "quantity": quantity,
        "matrices": matrices,
        "precision": "stored",
        "value": value,
        **null,
    }


def _nowhere() -> Console:
    return Console(file=io.StringIO())


_GIVES = (
    *(f"{a}-and-{b}" for a, b in combinations(_ARMS, 2)),
    *(f"{a}-in-{b}" for a, b in permutations(_ARMS, 2)),
    _ALL,
)

AGREEMENT = Probe("agreement", 1, (_ARMS,), _GIVES, _ask, seconds=5.0)
