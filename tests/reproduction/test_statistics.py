import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from offaxis.errors import NumericsError
from offaxis.reproduction import statistics

SAMPLES = arrays(np.float64, st.integers(3, 9), elements=st.floats(-100, 100))
EIGHTHS = arrays(
    np.float64, st.integers(3, 9), elements=st.integers(-800, 800).map(lambda n: n / 8)
)
SIMULATED = 2_000
LONG = pytest.mark.parametrize(
    "number", [SIMULATED, pytest.param(10 * SIMULATED, marks=pytest.mark.trials)]
)


def spread_out(sample):
    assume(sample.std(ddof=1) > 1e-6)
    return sample


def interval(sample, misses):
    return statistics.mean_interval(statistics.moments(sample), misses)


def effect(sample):
    return statistics.effect_size(statistics.moments(sample))


def distance_of(sample, misses, bounds=1):
    return statistics.detectable(statistics.moments(sample), misses, bounds=bounds)


def equivalence(sample, margin):
    return statistics.equivalence_p(statistics.moments(sample), margin)


def normal(draws, number=SIMULATED, seed=0):
    return np.random.default_rng(seed).normal(size=(number, draws))


@given(SAMPLES)
def test_intervals_effects_and_equivalence_are_those_of_scipy(sample):
    spread_out(sample)
    low, high = interval(sample, 0.01)
    assert (low, high) == pytest.approx(
        stats.ttest_1samp(sample, 0.0).confidence_interval(0.99), rel=1e-9, abs=1e-9
    )
    margin = 3.0
    below = stats.ttest_1samp(sample, margin, alternative="less").pvalue
    above = stats.ttest_1samp(sample, -margin, alternative="greater").pvalue
    assert equivalence(sample, margin) == pytest.approx(max(below, above), abs=1e-9)


@given(EIGHTHS)  # sums that differ by less than rounding are ties here, but not there
def test_the_sign_flip_test_is_scipys_permutation_test(sample):
    judged = stats.permutation_test(
        (sample,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert statistics.sign_flip_p(sample) == pytest.approx(judged.pvalue)


def test_the_sign_flip_test_has_a_least_p():
    assert statistics.sign_flip_p(np.arange(1.0, 9.0)) == 2**-8
    assert statistics.sign_flip_p(np.array([])) == 1.0
    assert statistics.sign_flip_p(np.zeros(6)) == 1.0


def test_many_draws_are_flipped_at_random_with_the_exact_law():
    sample = np.random.default_rng(0).normal(0.35, 1.0, size=17)
    judged = stats.permutation_test(
        (sample,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert statistics.sign_flip_p(sample) == pytest.approx(judged.pvalue, abs=0.004)


@given(SAMPLES, st.randoms(use_true_random=False))
def test_the_order_of_draws_does_not_matter(sample, random):
    spread_out(sample)
    other = np.array(random.sample(list(sample), len(sample)))
    for function in (
        lambda x: interval(x, 0.02),
        effect,
        statistics.sign_flip_p,
        lambda x: distance_of(x, 0.02),
    ):
        assert function(other) == pytest.approx(function(sample), rel=1e-6, abs=1e-9)


@given(SAMPLES, st.floats(0.1, 10), st.floats(-10, 10))
def test_units_and_zero_points_pass_through(sample, unit, zero):
    spread_out(sample)
    low, high = interval(sample, 0.02)
    moved = interval(unit * sample + zero, 0.02)
    assert moved == pytest.approx((unit * low + zero, unit * high + zero), rel=1e-6, abs=1e-6)
    assert effect(unit * sample) == pytest.approx(effect(sample))
    assert distance_of(unit * sample + zero, 0.02) == pytest.approx(
        unit * distance_of(sample, 0.02), rel=1e-6
    )


@given(SAMPLES)
def test_one_more_draw_at_the_mean_never_widens_an_interval(sample):
    spread_out(sample)
    low, high = interval(sample, 0.02)
    more = interval(np.append(sample, sample.mean()), 0.02)
    assert low < more.low < more.high < high


@pytest.mark.parametrize("sample", [[], [1.0], [2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3]])
def test_what_has_no_spread_tells_nothing(sample):
    assert statistics.moments(np.array(sample)) is None


def test_two_draws_have_no_effect_size():
    assert effect(np.array([1.0, 2.0])) is None


@LONG
def test_intervals_cover_as_often_as_they_say(number):
    misses = statistics.corrected(0.05, 5)
    samples = 3.0 + normal(8, number)
    missed = sum(
        not low <= 3.0 <= high for low, high in (interval(sample, misses) for sample in samples)
    )
    allowed = stats.binom.interval(0.999, len(samples), misses)
    assert allowed[0] <= missed <= allowed[1]


@LONG
def test_corrected_intervals_cover_together(number):
    claims, missed = 5, 0
    misses = statistics.corrected(0.05, claims)
    samples = normal(8, claims * number // 4).reshape(-1, claims, 8)
    samples += samples[:, :1, :]  # as dependent as arms of one draw
    for study in samples:
        intervals = [interval(sample, misses) for sample in study]
        missed += any(not low <= 0 <= high for low, high in intervals)
    assert missed <= stats.binom.ppf(0.999, len(samples), 0.05)


def test_the_effect_size_of_few_draws_is_not_biased():
    sizes = [effect(0.8 + sample) for sample in normal(5, 4 * SIMULATED)]
    error = np.std(sizes) / math.sqrt(len(sizes))
    assert abs(np.mean(sizes) - 0.8) < 4 * error
    biased = [float((0.8 + s).mean() / s.std(ddof=1)) for s in normal(5, 4 * SIMULATED)]
    assert abs(np.mean(biased) - 0.8) > 4 * error


@pytest.mark.parametrize("misses", [0.05, 0.003])
def test_a_detectable_difference_is_seen_four_times_in_five(misses):
    unit = np.array([-1.0, 1.0] * 4)
    unit /= unit.std(ddof=1)
    distance = distance_of(unit, misses)
    seen = sum(interval(distance + sample, misses).low > 0 for sample in normal(8))
    assert seen / SIMULATED == pytest.approx(statistics.POWER, abs=4 * math.sqrt(0.16 / SIMULATED))


def test_a_detectable_margin_is_held_at_least_four_times_in_five():
    unit = np.array([-1.0, 1.0] * 4)
    unit /= unit.std(ddof=1)
    margin = distance_of(unit, 0.05, bounds=2)
    intervals = [interval(sample, 0.05) for sample in normal(8)]
    held = sum(-margin < low and high < margin for low, high in intervals) / SIMULATED
    slack = 4 * math.sqrt(0.16 / SIMULATED)
    assert statistics.POWER - slack < held < statistics.POWER + 0.1


def test_the_bootstrap_over_matrices_is_the_standard_error_of_their_mean():
    readings = np.random.default_rng(1).normal(5.0, 2.0, size=200)
    judged = readings.std() / math.sqrt(200)
    assert statistics.layer_bootstrap(readings, resamples=4000) == pytest.approx(judged, rel=0.05)
    assert statistics.layer_bootstrap(np.array([3.0])) == 0.0
    with pytest.raises(NumericsError, match="at least one matrix"):
        statistics.layer_bootstrap(np.array([]))
