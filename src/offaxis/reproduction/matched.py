"""Readings of the arms of one draw where they are equally far, equally dense or equally good.

Nothing is trained for them: they are interpolated on the trajectories, never beyond an end.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from offaxis.report.matched import crossing
from offaxis.reproduction.curves import Curve, Name, Numbers

Arms = Mapping[str, Mapping[Name, Curve]]


class _Match(NamedTuple):
    """What is made equal.

    Attributes:
        point: The name of the point.
        by: The curve that is matched.
        among: The arms that set the target: it is a share of the smallest of their ends.
        share: Of that smallest end. Below 1, so that arms that end a little earlier are read there.
        log: Whether to interpolate in its logarithm.
    """

    point: str
    by: Name
    among: tuple[str, ...]
    share: float
    log: bool


_ACCURACY = Name("accuracy", "linear", "stored")
_PARADIGMS = ("sft-base", "sft", "opd", "rlvr")

_MATCHES = (
    _Match("norm=matched", Name("relative_norm", "linear", "stored"), _PARADIGMS, 0.8, True),
    _Match("density=matched", Name("update_density", "linear", "stored"), _PARADIGMS, 0.8, False),
    _Match("accuracy=matched", _ACCURACY, ("sft", "opd", "rlvr"), 1.0, False),
    _Match("accuracy=matched-long", _ACCURACY, ("sft", "opd", "rlvr-long"), 1.0, False),
)

_POWERS = (
    *("norm", "relative_norm", "spectral_norm", "spectral_shift"),
    *(f"{kind}_angle_{side}" for kind in ("max", "mean") for side in ("left", "right")),
    *("stable_rank", "effective_rank", "hill"),
)
"""What follows about a power of the norm, and is interpolated in its logarithm beside it."""

_BETWEEN_STEPS = "similarity"  # compares a checkpoint with others of its own run


def matched(arms: Arms) -> Iterator[dict[str, Any]]:
    """The rows of all matched points, but for their draw.

    An arm that never gets there has none, and where fewer than two of the arms that set a target
    were measured, nobody has.
    """
    for match in _MATCHES:
        ends = [
            float(arms[arm][match.by].value[-1])
            for arm in match.among
            if match.by in arms.get(arm, {})
        ]
        if len(ends) < 2:
            continue
        target = match.share * min(ends)
        for arm, curves in arms.items():
            if match.by in curves:
                yield from _arm(arm, curves, match, target)


def _arm(
    arm: str, curves: Mapping[Name, Curve], match: _Match, target: float
) -> Iterator[dict[str, Any]]:
    by = curves[match.by]
    length = max(float(curve.steps[-1]) for curve in curves.values())
    progress = crossing(by.value, by.steps / length, target, log=match.log)
    for name, curve in curves.items():
        if _BETWEEN_STEPS in name.quantity:
            continue
        x, is_power = _on(by, curve.steps), match.log and name.quantity in _POWERS
        value = _read(x, curve.value, target, match, is_power)
        if value is not None:
            yield {
                "arm": arm,
                "point": match.point,
                "progress": progress,
                **name._asdict(),
                "value": value,
                "null": _read(x, curve.null, target, match, is_power),
                "null_name": curve.null_name,
            }


def _read(x: Numbers, y: Numbers, target: float, match: _Match, is_power: bool) -> float | None:
    """The value of y where x takes the target."""
    if not is_power:
        return crossing(x, y, target, log=match.log)
    logarithms = np.log(np.where(y > 0, y, np.nan))
    found = crossing(x, logarithms, target, log=match.log)
    return None if found is None else float(np.exp(found))


def _on(curve: Curve, steps: Numbers) -> Numbers:
    """A curve's values at other steps, NaN where it has none."""
    at = dict(zip(curve.steps.tolist(), curve.value.tolist(), strict=True))
    return np.array([at.get(step, np.nan) for step in steps.tolist()], np.float64)
