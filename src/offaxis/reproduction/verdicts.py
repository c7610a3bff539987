"""From claims and the study table alone to verdicts, by one rule.

The interval of every contrast misses with the probability that the correction leaves to one claim.
Wholly inside the claimed region: holds; wholly outside: does not hold; else it cannot be told. A
claim holds where the published comparison and every control do; one that does not hold refutes it,
whatever the others leave open. The first of those that refute, or else leave open, decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from offaxis.report.verdicts import Verdict as Answer
from offaxis.report.verdicts import all_of
from offaxis.reproduction import statistics
from offaxis.reproduction.claims import Claim, Comparison, Control, Declaration, Direction
from offaxis.reproduction.contrasts import Contrast, Study, by_cell, contrasts
from offaxis.reproduction.statistics import Interval, Moments, Sample

SIGN_LEVEL = 0.05
"""A decision also needs a sign-flip p of at most this, which fewer than five draws cannot reach."""


@dataclass(frozen=True)
class Finding:
    """One contrast judged; all numbers in the unit of the quantity, or as ratios.

    Attributes:
        comparison: What it belongs to, a control or the published comparison.
        contrast: What was weighed against what.
        arms: The mean of every arm that takes part, by its label.
        answer: Whether it lies where it has to.
        why: In words, where it does not.
        num_draws: How many draws had all of its arms, of `of_draws`.
        value: Their mean; geometric for ratios.
        interval: At the corrected level.
        null: The same contrast of the nulls.
        effect: Paired standardised difference from the baseline.
        detectable: Smallest distance from the region's bound that could have been seen (within: the
            smallest margin); for ratios a factor.
        sign_p: Of the mean's lying on its side of the region's nearest bound, by flips of signs.
    """

    comparison: Comparison
    contrast: str
    arms: Mapping[str, float]
    answer: Answer
    why: str
    num_draws: int
    of_draws: int
    value: float | None = None
    interval: Interval | None = None
    null: float | None = None
    effect: float | None = None
    detectable: float | None = None
    sign_p: float | None = None

    @property
    def excludes(self) -> str:
        """The explanation that it would exclude; empty for the published comparison."""
        return self.comparison.excludes if isinstance(self.comparison, Control) else ""


@dataclass(frozen=True)
class Verdict:
    """A claim with its answer, what decided, and every finding.

    Attributes:
        claim: As declared.
        answer: Holds, does not hold, or cannot be told at this scale.
        as_published: The answer of the published comparison alone.
        findings: Of the published comparison, then of every control.
        decider: The finding that decided; None where everything holds.
        misses: What the correction left to this claim.
    """

    claim: Claim
    answer: Answer
    as_published: Answer
    findings: tuple[Finding, ...]
    decider: Finding | None
    misses: float

    @property
    def compared(self) -> tuple[Finding, ...]:
        """The findings of the published comparison."""
        return tuple(finding for finding in self.findings if not finding.excludes)


def evaluate(declared: Declaration, table: pa.Table) -> list[Verdict]:
    """Judge every declared claim from a study table.

    The correction counts what was declared, not what was run, so that no verdict depends on what
    else has been trained by now.

    Args:
        declared: The claims.
        table: The study table.

    Raises:
        ResultsError: If the table lacks a column or contradicts itself.
    """
    study = by_cell(table)
    misses = statistics.corrected(declared.misses, len(declared.claims))
    return [_judge(claim, study, misses) for claim in declared.claims]


def decide(sample: Sample, direction: Direction, margin: float, misses: float) -> Answer:
    """Say where the mean of a contrast lies.

    Args:
        sample: One number a draw, from the baseline.
        direction: The claimed region.
        margin: In the sample's unit.
        misses: The share of intervals that miss.
    """
    low, high = _sides(sample, (-margin, margin), misses)
    if direction == "above":
        return _as_answer(high)
    if direction == "below":
        return _as_answer(-low)
    is_inside, is_outside = low > 0 > high, low < 0 or high > 0
    if direction == "beyond":
        is_inside, is_outside = is_outside, is_inside
    return _as_answer(1 if is_inside else -1 if is_outside else 0)


def _judge(claim: Claim, study: Study, misses: float) -> Verdict:
    findings = [
        _find(contrast, comparison, misses)
        for comparison in (claim, *claim.controls)
        for contrast in contrasts(study, comparison)
    ]
    answer = all_of(finding.answer for finding in findings)
    as_published = all_of(finding.answer for finding in findings if not finding.excludes)
    is_decided = answer is not Answer.HOLDS
    decider = next(f for f in findings if f.answer is answer) if is_decided else None
    return Verdict(claim, answer, as_published, tuple(findings), decider, misses)


def _find(contrast: Contrast, comparison: Comparison, misses: float) -> Finding:
    """Judge one contrast and put its numbers into the unit of reading."""
    is_ratio = comparison.scale == "ratio"
    shown, size = (math.exp, math.log) if is_ratio else (float, float)
    baseline = size(comparison.neutral)
    margin = size(comparison.margin)
    sample = contrast.sample - baseline
    answer = decide(sample, comparison.direction, margin, misses)
    found = statistics.moments(sample)
    ends, distance = None, None
    if found is not None:
        ends = statistics.mean_interval(found, misses)
        bounds = 2 if comparison.direction == "within" else 1
        distance = statistics.detectable(found, misses, bounds=bounds)
    return Finding(
        comparison=comparison,
        contrast=contrast.name,
        arms=contrast.arms,
        answer=answer,
        why=_why(contrast, found, answer),
        num_draws=len(sample),
        of_draws=contrast.draws,
        value=shown(float(contrast.sample.mean())) if len(sample) else None,
        interval=None if ends is None else Interval(*(shown(end + baseline) for end in ends)),
        null=None if contrast.null is None else shown(contrast.null),
        effect=None if found is None else statistics.effect_size(found),
        detectable=None if distance is None else shown(distance),
        sign_p=_sign_p(sample, comparison.direction, margin) if len(sample) else None,
    )


def _as_answer(side: int) -> Answer:
    return (Answer.UNKNOWN, Answer.HOLDS, Answer.FAILS)[side]


def _sides(sample: Sample, bounds: tuple[float, ...], misses: float) -> list[int]:
    """For each bound, 1 where the mean lies above, -1 below, 0 where it cannot be told.

    Both the interval and the signs of the draws have to say so.
    """
    found = statistics.moments(sample)
    if found is None:
        return [0] * len(bounds)
    low, high = statistics.mean_interval(found, misses)
    sides = [int(low > bound) - int(high < bound) for bound in bounds]
    return [
        side if side and statistics.sign_flip_p(side * (sample - bound)) <= SIGN_LEVEL else 0
        for side, bound in zip(sides, bounds, strict=True)
    ]


def _sign_p(sample: Sample, direction: Direction, margin: float) -> float:
    bounds = {"above": (margin,), "below": (-margin,)}.get(direction, (-margin, margin))
    nearest = min((sample - bound for bound in bounds), key=lambda off: abs(off.mean()))
    return statistics.sign_flip_p(nearest if nearest.mean() > 0 else -nearest)


def _why(contrast: Contrast, found: Moments | None, answer: Answer) -> str:
    """Why a contrast does not hold; empty where it does."""
    count = len(contrast.sample)
    if answer is not Answer.UNKNOWN:
        return "" if answer is Answer.HOLDS else "the interval lies outside the region"
    if contrast.missing:
        return contrast.missing
    if 0.5**count > SIGN_LEVEL:
        return f"{count} draws decide nothing" if count > 1 else "one draw decides nothing"
    if found is None:
        return "all draws agree to rounding: copies, or readings at a ceiling"
    return "the interval, or the signs of the draws, leave it open"
