"""The tests that claims are made of: each reads numbers of some arms and gives one verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from offaxis.report import verdicts, visibility
from offaxis.report.quantities import QUANTITIES, RELATIVE_MARGIN, TIMES, Quantity, with_range
from offaxis.report.samples import CannotTell, label, sample
from offaxis.report.study import KNOWN_ARMS, NORM, Study
from offaxis.report.verdicts import Reading, Verdict


class Evidence(NamedTuple):
    """One test: what was asked, the answer, the numbers, whether it decides, and a warning."""

    title: str
    verdict: Verdict
    text: str
    decides: bool = True
    mark: str = ""


@runtime_checkable
class EvidenceTest(Protocol):
    """Anything that turns a study into one piece of evidence."""

    def run(self, study: Study) -> Evidence:
        """Run the test."""


def said(*answers: Verdict) -> str:
    """Print the answers to what a test asked."""
    words = {Verdict.HOLDS: "yes", Verdict.FAILS: "no", Verdict.UNKNOWN: "cannot tell"}
    return ", ".join(words[answer] for answer in answers)


def summary(readings: Sequence[float], quantity: Quantity) -> str:
    """Print a mean with the range of the seeds."""
    text = with_range(readings, quantity.unit)
    return f"{text} (one seed)" if len(readings) == 1 else text


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
        mark = visibility.mark(study, keys, [quantity], self.at)
        return Evidence(self.title, verdicts.all_of(answers), text, mark=mark)

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
        mark = visibility.mark(study, self.arms, [QUANTITIES[k] for k in self.quantities], self.at)
        return Evidence(self.title, verdicts.most_of(answers), text, self.decides, mark)


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
