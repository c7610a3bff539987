"""What a few draws allow to say of a difference: intervals, checks, effect size and power.

A sample holds one number a draw: a contrast of arms that share the draw's base, teacher and anchor.
Matrices of one model are no independent draws; their spread has a function of its own.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import nctdtrinc, stdtr, stdtrit

from offaxis.errors import NumericsError

Sample = Float64[np.ndarray, " draws"]

POWER = 0.8
"""How often a difference has to be seen to count as one that could have been seen."""

_LARGEST_EXACT = 16  # draws whose 2^n signs are gone through; beyond, as many are drawn
_RELATIVE_NOISE = 1e-12  # a spread below this share of the values is rounding


class Moments(NamedTuple):
    """How many draws, their mean, and its standard error, which is positive."""

    draws: int
    mean: float
    error: float


class Interval(NamedTuple):
    """Both ends of an interval for the mean of a contrast."""

    low: float
    high: float


def corrected(misses: float, claims: int) -> float:
    """Return the share of misses that one of several claims may have: Bonferroni's correction.

    Its intervals hold together, whatever depends on what, and can be drawn; Holm's steps, which
    reject more, belong to no interval of the same size. A claim holds only where its comparison and
    every control do, so that it can hold falsely no more often than any one of them: the correction
    is for the number of claims, not of contrasts.

    Args:
        misses: Of all claims together, in (0, 1).
        claims: How many there are, at least 1.

    Source:
        Bonferroni 1936; for conjunctions Berger 1982, doi:10.1080/00401706.1982.10487790.
    """
    return misses / claims


def moments(sample: Sample) -> Moments | None:
    """Return what the tests of Student's family need of a sample.

    Returns:
        None for fewer than two draws, and where all draws agree to rounding: copies of one draw, or
        readings at a ceiling, say nothing of the next draw.
    """
    if len(sample) < 2:
        return None
    spread = float(sample.std(ddof=1))
    if spread <= _RELATIVE_NOISE * float(np.abs(sample).max()):
        return None
    return Moments(len(sample), float(sample.mean()), spread / math.sqrt(len(sample)))


def mean_interval(found: Moments, misses: float) -> Interval:
    """Return Student's interval for the mean of independent, roughly normal draws.

    Args:
        found: Of the draws.
        misses: The share of intervals that miss the mean, half of them on either side.
    """
    reach = _quantile(found, misses) * found.error
    return Interval(found.mean - reach, found.mean + reach)


def sign_flip_p(sample: Sample, *, seed: int = 0) -> float:
    """Return the one-sided p of a mean above zero, were every draw's sign a toss of a coin.

    It assumes no normality, only symmetry, and is exact up to 16 draws; n draws never fall below
    2^-n. An empty sample gives 1.

    Source:
        Fisher 1935, The Design of Experiments, section 21.
    """
    count = len(sample)
    if count <= _LARGEST_EXACT:
        codes = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (2**_LARGEST_EXACT, count))
        codes = np.vstack([np.zeros_like(drawn[:1]), drawn])  # the signs as found are one of them
    sums = (1.0 - 2.0 * codes) @ sample
    slack = _RELATIVE_NOISE * float(np.abs(sample).sum())
    return float((sums >= sample.sum() - slack).mean())


def effect_size(found: Moments) -> float | None:
    """Return the paired standardised difference, freed of the bias of few draws (Hedges' g).

    Returns:
        The mean in standard deviations of the draws; None for two draws, whose factor is zero.

    Source:
        Hedges 1981, doi:10.3102/10769986006002107, with the exact factor.
    """
    if found.draws < 3:
        return None
    half = (found.draws - 1) / 2
    factor = math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)
    return factor * found.mean / (found.error * math.sqrt(found.draws))


def detectable(found: Moments, misses: float, *, bounds: int = 1) -> float:
    """Return the smallest distance from a bound that this many draws show with `POWER`.

    Args:
        found: Their number and spread count, not their mean.
        misses: As for `mean_interval`.
        bounds: 1 for a difference beyond a bound; 2 for the smallest margin on both sides of an
            equality that holds (from above, as the two misses are added).

    Source:
        The noncentral t distribution; for two bounds Schuirmann 1987, doi:10.1007/BF01068419.
    """
    unseen = (1 - POWER) / bounds
    return float(nctdtrinc(found.draws - 1, unseen, _quantile(found, misses))) * found.error


def equivalence_p(found: Moments, margin: float) -> float:
    """Return the p of two one-sided tests that the mean lies within a margin of zero.

    Args:
        found: Of the draws.
        margin: Positive, in their unit.

    Source:
        Schuirmann 1987, doi:10.1007/BF01068419.
    """
    return float(stdtr(found.draws - 1, (abs(found.mean) - margin) / found.error))


def layer_bootstrap(
    readings: Float64[np.ndarray, " matrices"], *, resamples: int = 1000, seed: int = 0
) -> float:
    """Return the standard error of a mean over the matrices of one model, by resampling them.

    It says how much the mean depends on which matrices there are. It is not the spread between
    draws and never stands in for it: matrices of one model were trained together.

    Args:
        readings: One number a matrix.
        resamples: How many sets of as many matrices are drawn, with replacement.
        seed: Of the draws.

    Raises:
        NumericsError: If there are no readings.

    Source:
        Efron 1979, doi:10.1214/aos/1176344552.
    """
    if not len(readings):
        raise NumericsError(
            "the bootstrap over matrices",
            expected="at least one matrix",
            found="none",
            do="measure the quantity on at least one matrix",
        )
    chosen = np.random.default_rng(seed).integers(0, len(readings), (resamples, len(readings)))
    return float(readings[chosen].mean(axis=1).std())


def _quantile(found: Moments, misses: float) -> float:
    """How many standard errors an interval reaches to either side."""
    return float(stdtrit(found.draws - 1, 1 - misses / 2))
