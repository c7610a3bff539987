"""The rule by which numbers of a few seeds become holds, does not hold, or cannot tell here."""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

# One-sided level of the exact rank test: three seeds against three just reach it (1/20).
LEVEL = 0.05

# A reading lies beyond its null when it does so by more than this many standard deviations.
NULL_SDS = 3.0

# An ordering against a null rests on this many seeds at least, as the rank test does.
LEAST_SEEDS = 3

Sample = Sequence[float]


class Verdict(StrEnum):
    """The three answers of the page."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "cannot tell here"


class Reading(NamedTuple):
    """A value of one seed beside its null."""

    value: float
    null_mean: float
    null_sd: float


def rank_p(num_low: int, num_high: int) -> float:
    """Return the one-sided p of complete separation: 1 / C(n + m, n).

    Source:
        Wilcoxon 1945, doi:10.2307/3001968 (the exact null distribution of the rank sum).
    """
    return 1.0 / math.comb(num_low + num_high, num_low)


def mean(sample: Sample) -> float:
    """Return the mean of a sample that is not empty."""
    return sum(sample) / len(sample)


def greater(high: Sample, low: Sample, margin: float) -> Verdict:
    """Decide whether one arm exceeds another.

    Holds when every seed of `high` lies above every seed of `low` and the means differ by more
    than the margin. Does not hold when that is so the other way round, or when every pair of
    seeds agrees within the margin. Too few seeds to separate at `LEVEL`: cannot tell.
    """
    if not high or not low or rank_p(len(low), len(high)) > LEVEL:
        return Verdict.UNKNOWN
    difference = mean(high) - mean(low)
    if min(high) > max(low) and difference > margin:
        return Verdict.HOLDS
    if max(high) < min(low) and -difference > margin:
        return Verdict.FAILS
    return Verdict.FAILS if equivalent(high, low, margin) else Verdict.UNKNOWN


def equivalent(one: Sample, other: Sample, margin: float) -> bool:
    """Whether every seed of one arm is within the margin of every seed of the other."""
    return all(abs(a - b) <= margin for a in one for b in other)


def differs(one: Sample, other: Sample, margin: float) -> Verdict:
    """Decide whether two arms differ in either direction; p is twice that of `greater`."""
    up, down = greater(one, other, margin), greater(other, one, margin)
    if Verdict.HOLDS in (up, down):
        return Verdict.HOLDS
    return Verdict.UNKNOWN if Verdict.UNKNOWN in (up, down) else Verdict.FAILS


def beyond_null(readings: Sequence[Reading], sign: int, margin: float) -> Verdict:
    """Decide whether readings lie above (+1) or below (-1) their null.

    Holds when every seed does so by more than the margin and `NULL_SDS` standard deviations.
    Does not hold when every seed stays below the margin in that direction.
    """
    if len(readings) < LEAST_SEEDS:
        return Verdict.UNKNOWN
    excess = [sign * (reading.value - reading.null_mean) for reading in readings]
    bars = [max(margin, NULL_SDS * reading.null_sd) for reading in readings]
    if all(e > bar for e, bar in zip(excess, bars, strict=True)):
        return Verdict.HOLDS
    return Verdict.FAILS if all(e <= margin for e in excess) else Verdict.UNKNOWN


def beyond_threshold(sample: Sample, sign: int, threshold: float) -> Verdict:
    """Decide whether every seed lies above (+1) or below (-1) a declared threshold."""
    if len(sample) < LEAST_SEEDS:
        return Verdict.UNKNOWN
    sides = [sign * (value - threshold) > 0 for value in sample]
    if all(sides):
        return Verdict.HOLDS
    return Verdict.UNKNOWN if any(sides) else Verdict.FAILS


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return holds if all hold, does not hold if any does not, else cannot tell."""
    given = list(verdicts)
    if Verdict.FAILS in given:
        return Verdict.FAILS
    return Verdict.UNKNOWN if not given or Verdict.UNKNOWN in given else Verdict.HOLDS


def most_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the answer that more than half of the verdicts give, else cannot tell."""
    given = list(verdicts)
    for answer in (Verdict.HOLDS, Verdict.FAILS):
        if 2 * given.count(answer) > len(given):
            return answer
    return Verdict.UNKNOWN
