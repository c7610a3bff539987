from dataclasses import replace

import pytest

from offaxis.report import write_report
from offaxis.report.claims import CLAIMS, judge_one
from offaxis.report.study import load_study
from offaxis.report.verdicts import Verdict


def test_an_order_of_size_alone_is_taken_away_by_the_control(verdict_of, arms):
    for key in ("sparsity", "rotation", "shift"):
        judged = verdict_of(key, arms)
        assert judged.evidence[0].verdict is Verdict.HOLDS, key
        assert judged.verdict is Verdict.FAILS, key
        assert "control takes it away: same anchor, same norm" in judged.reason


@pytest.mark.parametrize(
    ("key", "quantity"), [("rotation", "right_mean"), ("shift", "spectral_shift")]
)
def test_an_order_beyond_size_holds(verdict_of, arms, key, quantity):
    arms["sft"] = replace(arms["sft"], effects={quantity: 1.5})
    arms["rlvr"] = replace(arms["rlvr"], effects={quantity: 0.6})
    assert verdict_of(key, arms).verdict is Verdict.HOLDS


def test_sparsity_beyond_its_null_holds(verdict_of, arms):
    arms["sft"] = replace(arms["sft"], effects={"sparsity": 0.5})
    arms["rlvr"] = replace(arms["rlvr"], effects={"sparsity": 1.8})
    assert verdict_of("sparsity", arms).verdict is Verdict.HOLDS


def test_one_seed_cannot_tell(verdict_of, arms):
    single = {key: replace(arm, seeds=1) for key, arm in arms.items()}
    for claim in CLAIMS:
        assert verdict_of(claim.key, single).verdict is Verdict.UNKNOWN, claim.key


def test_a_missing_arm_is_named(verdict_of, arms):
    del arms["rlvr"]
    judged = verdict_of("sparsity", arms)
    assert judged.verdict is Verdict.UNKNOWN
    assert "Needs the arm “RLVR” (rlvr)" in judged.numbers


def test_masks_on_their_null_do_not_hold(verdict_of, arms):
    for key in ("off_principal", "small_weights"):
        judged = verdict_of(key, arms)
        assert judged.evidence[0].verdict is Verdict.HOLDS
        assert judged.verdict is Verdict.FAILS


def test_masks_beyond_their_null_hold(verdict_of, arms):
    effects = {"principal_overlap": 0.8, "low_magnitude_overlap": 1.3}
    for key in ("opd", "rlvr"):
        arms[key] = replace(arms[key], effects=effects)
    assert verdict_of("off_principal", arms).verdict is Verdict.HOLDS
    assert verdict_of("small_weights", arms).verdict is Verdict.HOLDS


def test_low_rank_is_judged_against_its_null(verdict_of, arms):
    assert verdict_of("low_rank", arms).verdict is Verdict.HOLDS
    arms["opd"] = replace(arms["opd"], effects={"stable_rank": 6.0})
    assert verdict_of("low_rank", arms).verdict is Verdict.FAILS


def test_the_early_lock_needs_the_random_walk_and_the_increments(verdict_of, arms):
    assert verdict_of("early_lock", arms).verdict is Verdict.FAILS
    arms["opd"] = replace(arms["opd"], effects={"right_to_final": 1.3})
    judged = verdict_of("early_lock", arms)
    answers = [item.verdict for item in judged.evidence]
    assert answers == [Verdict.HOLDS, Verdict.HOLDS, Verdict.HOLDS, Verdict.FAILS]
    assert judged.verdict is Verdict.FAILS
    arms["opd"] = replace(arms["opd"], effects={"right_to_final": 1.3, "right_increment": 1.3})
    assert verdict_of("early_lock", arms).verdict is Verdict.HOLDS


def test_random_rewards_of_the_same_geometry_take_learning_away(verdict_of, arms):
    assert verdict_of("learning", arms).verdict is Verdict.FAILS
    effects = dict.fromkeys(("sparsity", "right_mean", "spectral_shift"), 2.0)
    arms["rlvr-random"] = replace(arms["rlvr-random"], effects=effects)
    assert verdict_of("learning", arms).verdict is Verdict.HOLDS


def test_equal_accuracy_by_equal_paths_takes_the_difference_away(verdict_of, arms):
    assert verdict_of("accuracy", arms).verdict is Verdict.HOLDS
    # The path to an accuracy is made the same: RLVR is OPD stopped at 54 %.
    share = ((0.54 - 0.3) / (0.72 - 0.3)) ** 2
    arms["rlvr"] = replace(arms["opd"], norm=arms["opd"].norm * share**0.6, accuracy=0.54)
    arms["opd"] = replace(arms["opd"], effects={})
    judged = verdict_of("accuracy", arms)
    assert judged.evidence[0].verdict is Verdict.HOLDS
    assert judged.verdict is Verdict.FAILS


def test_shape_is_what_remains_at_equal_norm(verdict_of, arms):
    assert verdict_of("shape", arms).verdict is Verdict.FAILS
    effects = dict.fromkeys(("right_mean", "spectral_shift", "stable_rank"), 1.5)
    arms["rlvr"] = replace(arms["rlvr"], effects=effects)
    assert verdict_of("shape", arms).verdict is Verdict.HOLDS


def test_bf16_inflation(verdict_of, arms):
    judged = verdict_of("bf16_rank", arms)
    assert judged.verdict is Verdict.HOLDS
    huge = {key: replace(arms[key], norm=50.0) for key in ("opd", "rlvr")}
    assert verdict_of("bf16_rank", arms | huge).verdict is Verdict.FAILS


def test_flatness(verdict_of, arms):
    judged = verdict_of("flat", arms)
    assert [item.verdict for item in judged.evidence] == [
        Verdict.HOLDS,
        Verdict.FAILS,
        Verdict.FAILS,
    ]


def test_a_run_that_begins_late_leaves_its_claims_open(results, tmp_path, arms):
    folder = results(tmp_path, arms, roles=("q_proj",), count=5)
    rows = folder.read("readings", ["opd-s1"]).to_pylist()
    folder.write("readings", "opd-s1", [row for row in rows if row["step"] > 0.2 * 150])
    flat = next(claim for claim in CLAIMS if claim.key == "flat")
    judged = judge_one(load_study(folder), flat)
    assert [item.verdict for item in judged.evidence] == [Verdict.UNKNOWN] * 3
    assert "from 20% of every run on; opd-s1 has no reading there" in judged.evidence[0].text
    assert write_report(tmp_path).is_file()


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        (0.017, "RLVR has moved further than OPD: \u00d7\u202f1.3"),
        (0.050, "OPD has moved further than RLVR: \u00d7\u202f2."),
        (0.0229, "OPD and RLVR have moved equally far"),
    ],
)
def test_it_is_said_which_arm_moved_further_to_an_accuracy(verdict_of, arms, norm, said):
    arms["opd"] = replace(arms["opd"], norm=norm)
    judged = verdict_of("accuracy", arms)
    fair = judged.evidence[1]
    assert said in fair.text.replace("RLVR and OPD have", "OPD and RLVR have")
    assert "in size alone" in judged.claim.statement
    if judged.verdict is Verdict.HOLDS:
        assert judged.numbers == fair.text


def test_one_seed_cannot_say_which_moved_further(verdict_of, arms):
    single = {key: replace(arm, seeds=1) for key, arm in arms.items()}
    assert "Which moved further cannot be told" in verdict_of("accuracy", single).evidence[1].text
