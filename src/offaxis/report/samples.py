"""Readings of arms where they are compared: at the end, early, at matched norm or accuracy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from offaxis.report import matched
from offaxis.report.frames import Floats
from offaxis.report.quantities import Quantity
from offaxis.report.study import KNOWN_ARMS, NORM, Arm, Study
from offaxis.report.verdicts import Reading

EARLY = 0.2  # share of a run's steps; the first checkpoint of the paper stands at 21 %


class Samples(NamedTuple):
    """The readings of each arm at one place of its trajectories, and where that is."""

    arms: dict[str, list[Reading]]
    place: str


class CannotTell(Exception):  # noqa: N818 -- an answer, not an error
    """The table lacks what a test needs; the message says what."""

    @property
    def sentence(self) -> str:
        """The message as a sentence."""
        text = str(self)
        return f"{text[0].upper()}{text[1:]}."


def label(key: str) -> str:
    """Return the name of an arm, present or not."""
    return KNOWN_ARMS.get(key, (key, ""))[0]


def sample(
    study: Study, keys: Sequence[str], quantity: Quantity, at: str, *, fair: bool = True
) -> Samples:
    """Read a quantity of some arms at the end, early, or where norm or accuracy match.

    Matching compares paths, so it asks for arms that start from one anchor unless `fair` is off.

    Raises:
        CannotTell: If an arm or its readings are missing, or the arms have no place in common.
    """
    arms = [_present(study, key) for key in keys]
    if at == "end":
        found = {arm.key: study.final(arm, quantity) for arm in arms}
        _complete(found, quantity)
        return Samples(found, "at the end of each run")
    if fair and at != "progress":
        _same_anchor(arms)
    target, place = _target(study, arms, quantity, at)
    found = {arm.key: _at(study, arm, quantity, at, target) for arm in arms}
    _complete(found, quantity)
    return Samples(found, place)


def _present(study: Study, key: str) -> Arm:
    arm = study.arm(key)
    if arm is None:
        raise CannotTell(f"needs the arm “{label(key)}” ({key}), which was not trained here")
    return arm


def _complete(found: dict[str, list[Reading]], quantity: Quantity) -> None:
    for key, readings in found.items():
        if not readings:
            raise CannotTell(f"needs {quantity.label.lower()} of {label(key)}: not measured there")


def _same_anchor(arms: Sequence[Arm]) -> None:
    anchors = {run.get("anchor") for arm in arms for run in arm.runs}
    if len(anchors) > 1:
        raise CannotTell("needs arms that start from one anchor; these start from different ones")


def _target(study: Study, arms: Sequence[Arm], quantity: Quantity, at: str) -> tuple[float, str]:
    if at == "progress":
        return EARLY, f"at {EARLY:.0%} of each run"
    curves: list[Floats] = []
    for run in (name for arm in arms for name in arm.run_names):
        joint = study.joint(run, at, quantity)
        if joint is None:
            raise CannotTell(f"needs the {at} of run {run}, which is not in the table")
        curve = joint[0][(joint[0] > 0) & np.isfinite(joint[1].value)]
        if not len(curve):
            raise CannotTell(f"needs {quantity.label.lower()} of run {run} where its {at} is known")
        curves.append(curve)
    show = NORM.text if at == "norm" else "{:.1%}".format
    target = matched.common_target(curves)
    if target is None:
        starts, ends = (max(map(np.min, curves)), min(map(np.max, curves)))
        raise CannotTell(
            f"needs a {at} that every run reaches; one run starts at {show(starts)}, another ends "
            f"at {show(ends)}"
        )
    name = "relative norm" if at == "norm" else at
    return target, f"where every run's {name} is {show(target)}"


def _at(study: Study, arm: Arm, quantity: Quantity, at: str, target: float) -> list[Reading]:
    found = []
    for run in arm.run_names:
        joint = study.joint(run, at, quantity)
        if joint is None:
            continue
        x, series = joint
        log = at == "norm"
        value = matched.crossing(x, series.value, target, log=log)
        if value is not None:
            null = matched.crossing(x, series.null_mean, target, log=log)
            sd = matched.crossing(x, series.null_sd, target, log=log)
            nan = float("nan")
            found.append(Reading(value, nan if null is None else null, nan if sd is None else sd))
    return found


def measured(study: Study, keys: Sequence[str], quantity: Quantity) -> bool:
    """Whether every run of these arms has readings of a quantity."""
    arms = [arm for arm in map(study.arm, keys) if arm is not None]
    return all(study.series(run, quantity) for arm in arms for run in arm.run_names)
