"""The tests that claims are made of: each reads numbers of some arms and gives one verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from offaxis.report import matched, verdicts
from offaxis.report.frames import Floats
from offaxis.report.quantities import QUANTITIES, RELATIVE_MARGIN, TIMES, Quantity, with_range
from offaxis.report.study import KNOWN_ARMS, NORM, Arm, Study
from offaxis.report.verdicts import Reading, Verdict

EARLY = 0.2  # share of a run's steps; the first checkpoint of the paper stands at 21 %


class Evidence(NamedTuple):
    """One test: what was asked, the answer, the numbers, and whether it decides the claim."""

    title: str
    verdict: Verdict
    text: str
    decides: bool = True


@runtime_checkable
class EvidenceTest(Protocol):
    """Anything that turns a study into one piece of evidence."""

    def run(self, study: Study) -> Evidence:
        """Run the test."""


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


def said(*answers: Verdict) -> str:
    """Print the answers to what a test asked."""
    words = {Verdict.HOLDS: "yes", Verdict.FAILS: "no", Verdict.UNKNOWN: "cannot tell"}
    return ", ".join(words[answer] for answer in answers)


def summary(readings: Sequence[float], quantity: Quantity) -> str:
    """Print a mean with the range of the seeds."""
    text = with_range(readings, quantity.unit)
    return f"{text} (one seed)" if len(readings) == 1 else text


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


def margin(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the declared margin: a share of the larger of two means."""
    return RELATIVE_MARGIN * max(abs(verdicts.mean(one)), abs(verdicts.mean(other)))


@dataclass(frozen=True)
class Ordering:
    """Each pair (lower arm, higher arm) is in order, in value or in excess over the null."""

    title: str
    quantity: str
    pairs: tuple[tuple[str, str], ...]
    at: str = "end"
    of: str = "value"
    smallest_k: bool = False

    def run(self, study: Study) -> Evidence:
        """Sample the arms and compare each pair."""
        quantity = QUANTITIES[self.quantity]
        if self.smallest_k:
            quantity = with_k(study, quantity, last=False)
        keys = sorted({key for pair in self.pairs for key in pair}, key=list(KNOWN_ARMS).index)
        try:
            samples = sample(study, keys, quantity, self.at)
            shown = {key: self._column(readings) for key, readings in samples.arms.items()}
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence)
        answers, parts = [], []
        for low, high in self.pairs:
            values = ([r.value for r in samples.arms[key]] for key in (low, high))
            answer = verdicts.greater(shown[high], shown[low], margin(*values))
            answers.append(answer)
            parts.append(f"{label(low)} < {label(high)}: {said(answer)}")
        name = quantity.label if self.of == "value" else f"{quantity.label}, excess over null"
        numbers = ", ".join(f"{label(key)} {summary(shown[key], quantity)}" for key in keys)
        text = f"{name}, {samples.place}: {numbers}. {'; '.join(parts)}."
        return Evidence(self.title, verdicts.all_of(answers), text)

    def _column(self, readings: Sequence[Reading]) -> list[float]:
        if self.of == "value":
            return [reading.value for reading in readings]
        excess = [reading.value - reading.null_mean for reading in readings]
        if not np.all(np.isfinite(excess)):
            raise CannotTell("needs the null of every reading; some have none")
        return excess


@dataclass(frozen=True)
class MostDiffer:
    """Two arms differ in most of some quantities (in either direction)."""

    title: str
    quantities: tuple[str, ...]
    arms: tuple[str, str]
    at: str
    decides: bool = True

    def run(self, study: Study) -> Evidence:
        """Compare the two arms in every quantity; the majority answers."""
        answers, parts, place, further = [], [], "", ""
        try:
            for key in self.quantities:
                quantity = QUANTITIES[key]
                samples = sample(study, self.arms, quantity, self.at)
                one, other = ([r.value for r in samples.arms[arm]] for arm in self.arms)
                answer = verdicts.differs(one, other, margin(one, other))
                answers.append(answer)
                word = {Verdict.HOLDS: "differs", Verdict.FAILS: "same"}.get(answer, "undecided")
                pair = f"{summary(one, quantity)} and {summary(other, quantity)}"
                parts.append(f"{quantity.label.lower()} {pair}: {word}")
                place = samples.place
                further = _further(self.arms, one, other) if key == NORM.key else further
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence, self.decides)
        names = " and ".join(label(arm) for arm in self.arms)
        text = f"{further}{names}, {place}: {'; '.join(parts)}."
        return Evidence(self.title, verdicts.most_of(answers), text, self.decides)


def _further(arms: tuple[str, str], one: Sequence[float], other: Sequence[float]) -> str:
    """Say which of two arms has moved further, as other differences may follow from that."""
    ways = [(arms[0], one, arms[1], other), (arms[1], other, arms[0], one)]
    if min(verdicts.mean(one), verdicts.mean(other)) <= 0:
        return ""
    ways.sort(key=lambda way: verdicts.mean(way[1]) / verdicts.mean(way[3]))
    near, low, far, high = ways[0]
    ratio = f"{TIMES}\u202f{verdicts.mean(high) / verdicts.mean(low):.2f}"
    answer = verdicts.greater(high, low, margin(high, low))
    if answer is Verdict.HOLDS:
        return f"{label(far)} has moved further than {label(near)}: {ratio} in relative norm. "
    if answer is Verdict.FAILS:
        return f"{label(far)} and {label(near)} have moved equally far (relative norms {ratio}). "
    return f"Which moved further cannot be told ({label(far)} {ratio} in relative norm). "


def with_k(study: Study, quantity: Quantity, *, last: bool) -> Quantity:
    """Fix K of a similarity to the smallest or the largest that was measured."""
    measured = study.frame.settings("similarity", "K")
    return quantity.with_settings(K=measured[-1 if last else 0]) if measured else quantity
