import math

import numpy as np
import pytest

from offaxis.report import matched
from offaxis.report.quantities import QUANTITIES
from offaxis.report.study import load_study


def test_crossing_reads_a_straight_line():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([10.0, 20.0, 40.0])
    assert matched.crossing(x, y, 2.0) == pytest.approx(30.0)
    assert matched.crossing(x, y, 1.0) == 20.0


def test_crossing_in_the_logarithm_recovers_a_power_law():
    x = np.geomspace(1e-3, 1e-1, 4)
    assert matched.crossing(x, np.log(x), 0.02, log=True) == pytest.approx(math.log(0.02))


def test_crossing_takes_the_first_time():
    x, y = np.array([0.0, 2.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0, 3.0])
    assert matched.crossing(x, y, 1.0) == pytest.approx(0.5)


def test_nothing_is_continued_beyond_its_ends():
    x, y = np.array([1.0, 2.0]), np.array([1.0, 2.0])
    assert matched.crossing(x, y, 2.1) is None
    assert matched.crossing(x, y, 0.9) is None
    assert matched.crossing(np.array([]), np.array([]), 1.0) is None


def test_undefined_points_are_passed_over():
    x, y = np.array([0.0, 1.0, math.nan, 3.0]), np.array([math.nan, 10.0, 5.0, 30.0])
    assert matched.crossing(x, y, 2.0) == pytest.approx(20.0)
    assert matched.crossing(x, y, 0.5) is None


def test_common_target_is_the_end_of_the_shortest_path():
    assert matched.common_target([np.array([1.0, 5.0]), np.array([2.0, 3.0])]) == 3.0
    assert matched.common_target([np.array([1.0, 2.0]), np.array([3.0, 4.0])]) is None
    assert matched.common_target([np.array([math.nan])]) is None


def test_planted_values_at_matched_norm(results, tmp_path, arms):
    from offaxis.report.samples import sample

    study = load_study(results(tmp_path, {key: arms[key] for key in ("sft", "opd", "rlvr")}))
    samples = sample(study, ["sft", "opd", "rlvr"], QUANTITIES["shift"], "norm")
    reached = arms["rlvr"].norm * 0.98  # the seed that went least far
    for readings in samples.arms.values():
        assert [r.value for r in readings] == pytest.approx([0.12 * reached] * 3, rel=0.15)
    exact = samples.arms["rlvr"][0]
    assert exact.value == pytest.approx(0.12 * reached)
    assert exact.null_mean == pytest.approx(0.10 * reached)


def test_planted_values_at_matched_accuracy(results, tmp_path, arms):
    from offaxis.report.samples import sample

    study = load_study(results(tmp_path, {key: arms[key] for key in ("opd", "rlvr")}))
    samples = sample(study, ["opd", "rlvr"], QUANTITIES["norm"], "accuracy")
    assert "54.0%" in samples.place
    assert samples.arms["rlvr"][1].value == pytest.approx(100 * arms["rlvr"].norm)


def test_matching_refuses_different_anchors(results, tmp_path, arms):
    from offaxis.report.samples import CannotTell, sample

    study = load_study(results(tmp_path, {key: arms[key] for key in ("sft-base", "opd")}))
    with pytest.raises(CannotTell, match="one anchor"):
        sample(study, ["sft-base", "opd"], QUANTITIES["shift"], "norm")


def test_matching_refuses_ranges_that_do_not_meet(results, tmp_path, planted_arm):
    from offaxis.report.samples import CannotTell, sample

    far_apart = {"opd": planted_arm(0.3, steps=4), "rlvr": planted_arm(0.001, steps=4)}
    study = load_study(results(tmp_path, far_apart))
    with pytest.raises(CannotTell, match="one run starts at"):
        sample(study, ["opd", "rlvr"], QUANTITIES["shift"], "norm")
