"""Estimates over problems, each with its 95 % interval.

Shapes: P problems (or documents).
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import comb, ndtri

Floats = Float[np.ndarray, "P"]
Ints = Int[np.ndarray, "P"]

CONFIDENCE = 0.95
_RESAMPLES = 2000


class Metric(NamedTuple):
    """One number of one model, and how it was made.

    Attributes:
        name: What was measured, such as `accuracy` or `pass@8`.
        value: Its value; None where no problem could be scored.
        low: The lower end of the interval, None where there is none.
        high: The upper end.
        size: Over how many problems or samples it was taken.
        unscorable: Completions that could not be scored and entered nothing.
        definition: The formula with its settings, and how the interval was made.
        stderr: The standard error, where the interval was made of one.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    size: int
    unscorable: int
    definition: str
    stderr: float | None = None


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def proportion(successes: int, trials: int) -> Estimate:
    """Estimate a probability from independent trials, with Wilson's score interval.

    Args:
        successes: How many succeeded, at most `trials`.
        trials: At least 1.

    Returns:
        The fraction in [0, 1]. The interval is never empty: 0 of n reaches up to z²/(n + z²).

    Source:
        Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    z = float(ndtri((1 + CONFIDENCE) / 2))
    p, shrink = successes / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2) / shrink
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def pass_at_k(completions_P: Ints, solved_P: Ints, k: int) -> Floats:
    """Estimate without bias that one of k completions solves a problem: 1 - C(n-c, k) / C(n, k).

    The plug-in form 1 - (1 - c/n)^k is biased downwards.

    Args:
        completions_P: Completions n of each problem, at least k.
        solved_P: How many of them, c, solve it.
        k: At least 1; at 1 this is c/n.

    Returns:
        Probabilities in [0, 1]; exactly 1 where n - c < k.

    Source:
        Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    missed: Floats = comb(completions_P - solved_P, k) / comb(completions_P, k)
    return 1 - missed


def mean(values_P: Floats, seed: int) -> Estimate:
    """The mean over problems, as `pooled_mean` with one part each."""
    return pooled_mean(values_P, np.ones_like(values_P), seed)


def pooled_mean(sums_P: Floats, counts_P: Floats, seed: int) -> Estimate:
    """The mean over all parts of all problems, with the percentile bootstrap over problems.

    Whole problems are drawn again, for the parts of one problem are not independent.

    Args:
        sums_P: The sum over the parts of each problem, at least one problem.
        counts_P: The parts of each, at least 1.
        seed: The key of the draws.

    Returns:
        The mean. Where all problems agree (a single one among them) the interval is that point: the
        bootstrap knows nothing of problems it has not seen.

    Source:
        Efron 1979, doi:10.1214/aos/1176344552.
    """
    num = len(sums_P)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(num, np.full(num, 1 / num), size=_RESAMPLES)
    drawn = (weights @ sums_P) / (weights @ counts_P)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(sums_P.sum() / counts_P.sum())
    # Sums in another order may leave a constant's interval an ulp beside it.
    return Estimate(value, min(value, float(low)), max(value, float(high)))
