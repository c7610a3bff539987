"""Tests about ranks: low against chance, flat over training, inflated by bf16 files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offaxis.report import matched, verdicts, visibility
from offaxis.report.evidence import Evidence, said, summary
from offaxis.report.frames import Series
from offaxis.report.quantities import QUANTITIES, TIMES, Quantity
from offaxis.report.samples import EARLY, CannotTell, label, sample
from offaxis.report.study import Study
from offaxis.report.verdicts import Verdict

# Declared thresholds, heuristics of this page: half of the null is "low"; a quarter up or down
# over the last four fifths of a run is "flat"; a tenth more is "inflated".
LOW_RANK_RATIO = 0.5
FLAT_CHANGE = 0.25
INFLATED_RATIO = 1.1

RATIO = Quantity("ratio", "", "", "ratio")
CHANGE = Quantity("change", "", "", "change", "%", 100.0)
STABLE_RANK = QUANTITIES["stable_rank"]


@dataclass(frozen=True)
class LowRank:
    """The stable rank of each arm's update stays below half of its null."""

    title: str
    arms: tuple[str, ...]

    def run(self, study: Study) -> Evidence:
        """Compare the ratio of value to null with the threshold."""
        try:
            samples = sample(study, self.arms, STABLE_RANK, "end")
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence)
        answers, parts = [], []
        for key, readings in samples.arms.items():
            usable = [r for r in readings if np.isfinite(r.null_mean) and r.null_mean > 0]
            ratios = [r.value / r.null_mean for r in usable]
            answers.append(verdicts.beyond_threshold(ratios, -1, LOW_RANK_RATIO))
            null = verdicts.mean([r.null_mean for r in usable]) if usable else None
            numbers = summary([r.value for r in readings], STABLE_RANK)
            parts.append(f"{label(key)} {numbers} against {STABLE_RANK.text(null)} by chance")
        text = (
            f"Stable rank: {'; '.join(parts)}. "
            f"Asked: below {LOW_RANK_RATIO:.0%} of the null: {said(*answers)}."
        )
        return Evidence(self.title, verdicts.all_of(answers), text)


@dataclass(frozen=True)
class Flat:
    """The stable rank of one arm changes little between 20 % of its run and the end."""

    title: str
    arm: str

    def run(self, study: Study) -> Evidence:
        """Compare the size of the change with the threshold."""
        try:
            changes = late_changes(study, self.arm)
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence)
        sizes = [abs(change) for change in changes]
        answer = verdicts.beyond_threshold(sizes, -1, 100 * FLAT_CHANGE)
        text = (
            f"Change of {label(self.arm)}'s stable rank from {EARLY:.0%} of the run to its end: "
            f"{summary(changes, CHANGE)}. "
            f"Asked: at most {FLAT_CHANGE:.0%} either way: {said(answer)}."
        )
        mark = visibility.mark(study, [self.arm], [STABLE_RANK], "progress", "end")
        return Evidence(self.title, answer, text, mark=mark)


@dataclass(frozen=True)
class Flatter:
    """The stable rank of one arm changes less than that of another."""

    title: str
    arm: str
    other: str

    def run(self, study: Study) -> Evidence:
        """Compare the sizes of the late changes of the two arms."""
        try:
            own, other = late_changes(study, self.arm), late_changes(study, self.other)
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence)
        sizes = [[abs(change) for change in changes] for changes in (other, own)]
        answer = verdicts.greater(sizes[0], sizes[1], 10.0)
        text = (
            f"Change over the last {1 - EARLY:.0%} of the run: {label(self.arm)} "
            f"{summary(own, CHANGE)}, {label(self.other)} {summary(other, CHANGE)}. "
            f"Asked: {label(self.other)} changes more, by over 10 points: {said(answer)}."
        )
        keys = [self.arm, self.other]
        mark = visibility.mark(study, keys, [STABLE_RANK], "progress", "end")
        return Evidence(self.title, answer, text, mark=mark)


def late_changes(study: Study, key: str) -> Sequence[float]:
    """Return each seed's change of stable rank from 20 % of the run to its end, in percent.

    Raises:
        CannotTell: If the arm is missing, or a run has no reading at 20 % of it or none at all.
    """
    sample(study, [key], STABLE_RANK, "end")  # says what is missing, if anything is
    arm = study.arm(key)
    return [_late_change(study, run) for run in (arm.run_names if arm else [])]


def _late_change(study: Study, run: str) -> float:
    joint = study.joint(run, "progress", STABLE_RANK)
    early = joint and matched.crossing(joint[0], joint[1].value, EARLY)
    if not (joint and early and early > 0):
        raise CannotTell(
            f"needs {STABLE_RANK.label.lower()} from {EARLY:.0%} of every run on; {run} has no "
            "reading there"
        )
    return 100 * (float(joint[1].defined().value[-1]) / early - 1)


@dataclass(frozen=True)
class Inflated:
    """Seen through bf16 files, the smallest update of each run has a higher stable rank."""

    title: str
    arms: tuple[str, ...]
    compare_with_end: bool = False

    def run(self, study: Study) -> Evidence:
        """Compare the two readings of the same checkpoints."""
        try:
            pairs = {key: _inflations(study, key) for key in self.arms}
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence)
        answers, parts = [], []
        for key, ratios in pairs.items():
            first, last = [pair[0] for pair in ratios], [pair[1] for pair in ratios]
            if self.compare_with_end:
                fall = [a / b for a, b in ratios]
                answers.append(verdicts.beyond_threshold(fall, 1, 1.0))
            else:
                answers.append(verdicts.beyond_threshold(first, 1, INFLATED_RATIO))
            parts.append(
                f"{label(key)} {TIMES} {summary(first, RATIO)} at the first checkpoint, "
                f"{TIMES} {summary(last, RATIO)} at the end"
            )
        asked = (
            "the inflation falls as the update grows"
            if self.compare_with_end
            else f"more than {TIMES} {INFLATED_RATIO} at the first checkpoint"
        )
        text = f"bf16 files / as stored: {'; '.join(parts)}. Asked: {asked}: {said(*answers)}."
        return Evidence(self.title, verdicts.all_of(answers), text)


def _inflations(study: Study, key: str) -> list[tuple[float, float]]:
    """Return each seed's ratio of stable ranks (bf16 / as stored) at the first and last step."""
    sample(study, [key], STABLE_RANK, "end")  # says what is missing, if anything is
    arm = study.arm(key)
    found = []
    for run in arm.run_names if arm else []:
        stored = study.series(run, STABLE_RANK.with_settings(as_="stored"))
        seen = study.series(run, STABLE_RANK.with_settings(as_="bf16"))
        if stored is None or seen is None:
            raise CannotTell("needs ranks measured both as stored and as bf16 files would show")
        ratios = _ratios(stored, seen)
        if ratios:
            found.append((ratios[0], ratios[-1]))
    return found


def _ratios(stored: Series, seen: Series) -> list[float]:
    """Return the ratio of two readings at every step where both are positive."""
    below = dict(zip(stored.steps.tolist(), stored.value.tolist(), strict=True))
    return [
        value / below[step]
        for step, value in zip(seen.steps.tolist(), seen.value.tolist(), strict=True)
        if value > 0 and below.get(step, 0.0) > 0
    ]
