"""The controls of a study: runs under one changed condition, each beside the run without it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from offaxis.report.figures import TableView
from offaxis.report.quantities import MISSING, QUANTITIES, number, with_range
from offaxis.report.study import Arm, Study

SHOWN = ("sparsity", "stable_rank")

# What training logs under a condition, and what the page calls it.
LOGGED = {
    "update_norm": "‖ΔW‖",
    "leakage": "leakage",
    "kept_tokens": "tokens kept",
    "age": "age of rollouts (steps)",
    "mismatch_kl_nats": "KL(sampler ‖ student) (nats)",
    "component_cosine": "cosine of the two gradients",
}

# Below this nothing is to be seen: rollouts of now, sampled in the precision they are learned in.
LEAST = {"age": 0.5, "mismatch_kl_nats": 1e-3}


@dataclass(frozen=True)
class ControlTable:
    """One question: the free run in the first row, its controls below."""

    title: str
    lead: str
    table: TableView


def control_tables(study: Study) -> list[ControlTable]:
    """Return a table for every group of controls that the study names and that was trained."""
    return [
        ControlTable(str(group.get("title") or ""), str(group.get("lead") or ""), table)
        for group in (study.manifest.get("study") or {}).get("controls") or []
        if (table := _table(study, group)) is not None
    ]


def _table(study: Study, group: Mapping[str, Any]) -> TableView | None:
    """The rows of one group; None where none of its controls was trained."""
    free = study.arm(str(group.get("free")))
    controls = [arm for key in group.get("arms") or [] if (arm := study.control(str(key)))]
    if not controls:
        return None
    arms = [*([free] if free else []), *controls]
    quantities = [QUANTITIES[key] for key in SHOWN]
    values = {key: [v for arm in arms for v in _last(study, arm, key)] for key in LOGGED}
    logged = [key for key, held in values.items() if max(held, default=-1.0) >= LEAST.get(key, 0)]
    head = (
        "run",
        "seeds",
        "accuracy: start → end",
        "gain kept",
        *(f"{quantity.label} (null)" for quantity in quantities),
        *(LOGGED[key] for key in logged),
    )
    rows = [
        (
            arm.label,
            str(len(arm.runs)),
            _accuracy(study, arm),
            MISSING if free is None or arm is free else _gain_kept(study, arm, free),
            *(_reading(study, arm, key) for key in SHOWN),
            *(with_range(_last(study, arm, key)) for key in logged),
        )
        for arm in arms
    ]
    return TableView(head, tuple(rows))


def _accuracies(study: Study, arm: Arm) -> Iterator[tuple[float, float]]:
    """Accuracy at the start and at the end of every seed that logged it."""
    for run in arm.run_names:
        curve = study.accuracy(run)
        if curve is not None:
            yield float(curve[1][0]), float(curve[1][-1])


def _accuracy(study: Study, arm: Arm) -> str:
    pairs = list(_accuracies(study, arm))
    if not pairs:
        return MISSING
    start = float(np.mean([first for first, _ in pairs]))
    return f"{100 * start:.1f} → {with_range([100 * last for _, last in pairs], '%')}"


def _gain_kept(study: Study, arm: Arm, free: Arm) -> str:
    """Accuracy won since the control's start, as a share of what the free run won from there."""
    pairs, ends = list(_accuracies(study, arm)), [last for _, last in _accuracies(study, free)]
    if not pairs or not ends:
        return MISSING
    start, end = (float(np.mean(column)) for column in zip(*pairs, strict=True))
    won = float(np.mean(ends)) - start
    # A free run that won less than the noise of its evaluation says nothing about a share of it.
    return f"{number(100 * (end - start) / won)}\u202f%" if won > 0.02 else MISSING


def _reading(study: Study, arm: Arm, key: str) -> str:
    quantity = QUANTITIES[key]
    readings = study.final(arm, quantity)
    if not readings:
        return MISSING
    nulls = [r.null_mean for r in readings if np.isfinite(r.null_mean)]
    null = f" ({quantity.text(float(np.mean(nulls)))})" if nulls else ""
    return f"{with_range([r.value for r in readings], quantity.unit)}{null}"


def _last(study: Study, arm: Arm, key: str) -> list[float]:
    """The last logged value of every seed."""
    curves = (study.training.get((run, key)) for run in arm.run_names)
    return [float(curve[1][-1]) for curve in curves if curve is not None and len(curve[1])]
