"""From measured runs to the study table: one flat table, one number a row.

Of every arm it holds each checkpoint (`step=12`), the end, the first checkpoint after a fifth of
the way (`early`), and readings at equal norm, density and accuracy, off the trajectories.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from offaxis.reproduction.curves import Curve, Name, averaged
from offaxis.reproduction.matched import matched

STUDY = pa.schema(
    [
        ("draw", pa.int32()),
        ("arm", pa.string()),
        ("point", pa.string()),
        ("progress", pa.float64()),
        ("quantity", pa.string()),
        ("matrices", pa.string()),
        ("precision", pa.string()),
        ("value", pa.float64()),
        ("null", pa.float64()),
        ("null_name", pa.string()),
        ("spread", pa.float64()),
    ]
)
"""One row a number, with its primary null beside it.

`progress` is the share of the arm's own length; `spread` the standard error over matrices, which is
never that between draws. `matrices` is `linear` (all linear ones; also of what is read of the whole
model), `attention` or `mlp`; `precision` is `stored` (float32) or `bf16`.
"""

EARLY = 0.2
"""Where the paper's constraint begins, and about where its first checkpoint lies."""

_JUDGED = re.compile(r"accuracy|forward_kl_nats|(avg|pass)@\d+")
"""What the training log says of a model that the study table takes, under the same names."""


class RunFacts(NamedTuple):
    """What the table has to know of a run beside its readings.

    Attributes:
        arm: Its arm.
        free: The arm it goes on from under a constraint; empty for one that is free.
    """

    arm: str
    free: str = ""


def study_table(
    draw: int,
    runs: Mapping[str, RunFacts],
    *,
    readings: pa.Table,
    training: pa.Table,
) -> pa.Table:
    """The rows of one draw.

    Args:
        draw: Which.
        runs: The runs to take, by name; what else the tables hold is passed over.
        readings: As `offaxis.table.READINGS`.
        training: What training logged, as `offaxis.table.TRAINING`.
    """
    measured, judged = averaged(readings), _judged(training)
    arms = {
        facts.arm: {**measured.get(run, {}), **judged.get(run, {})} for run, facts in runs.items()
    }
    rows = [
        {"draw": draw, "arm": arm, **row}
        for arm, curves in arms.items()
        for row in [*_along(curves), *_changes(curves)]
    ]
    rows += [{"draw": draw, **row} for row in matched(arms)]
    free_of = {facts.arm: facts.free for facts in runs.values() if facts.free}
    rows += [{"draw": draw, **row} for row in _kept(arms, free_of)]
    return pa.Table.from_pylist(rows, schema=STUDY)


def row_of(name: Name, point: str, value: float, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """A row but for its draw and arm; what is not a number is null."""
    row = {"point": point, **name._asdict(), "value": value, **more}
    return {
        key: None if isinstance(cell, float) and not np.isfinite(cell) else cell
        for key, cell in row.items()
    }


def early(steps: Sequence[float]) -> int:
    """The place of the first step at or after a fifth of the last one."""
    return next(i for i, step in enumerate(steps) if step >= EARLY * steps[-1])


def _judged(training: pa.Table) -> dict[str, dict[Name, Curve]]:
    """The curves of what models were judged by, by run."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in training.to_pylist():
        if _JUDGED.fullmatch(row["quantity"]) and row["value"] is not None:
            key = row["run"], row["quantity"]
            found.setdefault(key, []).append((row["step"], row["value"]))
    curves: dict[str, dict[Name, Curve]] = {}
    for (run, quantity), points in found.items():
        steps, values = (np.array(each, np.float64) for each in zip(*sorted(points), strict=True))
        nothing = np.full(len(steps), np.nan)
        curve = Curve(steps, values, nothing, nothing)
        curves.setdefault(run, {})[Name(quantity, "linear", "stored")] = curve
    return curves


def _along(curves: Mapping[Name, Curve]) -> Iterator[dict[str, Any]]:
    """The rows of one arm at its checkpoints: each, the early one and the last."""
    length = max((float(curve.steps[-1]) for curve in curves.values()), default=0.0)
    for name, curve in curves.items():
        last = len(curve.steps) - 1
        for place, step in enumerate(curve.steps.tolist()):
            points = [f"step={step:g}"]
            points += ["early"] if place == early(curve.steps.tolist()) else []
            points += ["end"] if place == last else []
            for point in points:
                yield row_of(
                    name,
                    point,
                    float(curve.value[place]),
                    progress=step / length,
                    null=float(curve.null[place]),
                    null_name=curve.null_name,
                    spread=float(curve.spread[place]),
                )


def _changes(curves: Mapping[Name, Curve]) -> Iterator[dict[str, Any]]:
    """How far ranks and tails moved from the early checkpoint to the end; the gain in accuracy."""
    for name, curve in curves.items():
        values = curve.value
        if name.quantity in ("stable_rank", "effective_rank", "hill"):
            first = early(curve.steps.tolist())
            named = name._replace(quantity=f"{name.quantity}_change")
            yield row_of(named, "end", float(values[-1] - values[first]), progress=1.0)
        if name.quantity == "accuracy":
            gain = name._replace(quantity="gain")
            yield row_of(gain, "end", float(values[-1] - values[0]), progress=1.0)


def _kept(
    arms: Mapping[str, Mapping[Name, Curve]], free_of: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Of what the free run gains beyond a constrained one's start, the share that this one gains.

    Left out where the free run gains nothing, or was not measured.
    """
    name = Name("accuracy", "linear", "stored")
    for arm, free in free_of.items():
        own, other = arms[arm].get(name), arms.get(free, {}).get(name)
        if own is None or other is None or other.value[-1] <= own.value[0]:
            continue
        kept = (own.value[-1] - own.value[0]) / (other.value[-1] - own.value[0])
        gain_kept = name._replace(quantity="gain_kept")
        yield {"arm": arm, **row_of(gain_kept, "end", float(kept), progress=1.0)}
