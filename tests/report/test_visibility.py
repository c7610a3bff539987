"""What bf16 files show: comparisons are marked where it differs too much, and only there."""

import pytest

from offaxis.report import samples, sections, summary, visibility
from offaxis.report.claims import CLAIMS, judge_one
from offaxis.report.quantities import QUANTITIES
from offaxis.report.study import load_study

KEYS = ("sft", "opd", "rlvr")
RANK = QUANTITIES["stable_rank"]


@pytest.fixture
def shown(results, tmp_path, planted_arm):
    """Load a study of three arms, of whose updates the files show these fractions."""

    def load(*fractions, files="bfloat16", seeds=1):
        arms = {
            key: planted_arm(0.02, files=files, seeds=seeds, effects={"visible_fraction": fraction})
            for key, fraction in zip(KEYS, fractions, strict=True)
        }
        return load_study(results(tmp_path, arms, roles=("q_proj",), count=4))

    return load


@pytest.mark.parametrize(
    ("fractions", "is_marked"),
    [
        ((0.9, 0.4), True),
        ((0.9, 0.85), False),
        ((0.45, 0.4), True),
        ((1.0, 0.6), True),
        ((0.75, 0.5), False),
        ((0.3,), False),
        ((), False),
    ],
)
def test_fractions_compare_within_a_factor_and_above_a_half(fractions, is_marked):
    assert visibility.incomparable(fractions) is is_marked


@pytest.mark.parametrize("place", ["end", "norm", "accuracy", "progress"])
def test_a_table_with_unequal_fractions_is_marked(shown, place):
    note = visibility.mark(shown(0.9, 0.4, 0.9), KEYS, [RANK], place)
    assert "SFT 90.0\u202f%, OPD 40.0\u202f%, RLVR 90.0\u202f%" in note
    assert "Stable rank" in note


def test_a_table_with_similar_fractions_is_not(shown):
    study = shown(0.9, 0.85, 0.9)
    assert not visibility.mark(study, KEYS, [RANK], "end")
    assert not any(item.mark for item in summary.matched_tables(study))
    assert not any(judge_one(study, claim).mark for claim in CLAIMS)


def test_files_that_hold_more_than_bf16_hide_nothing(shown):
    assert not visibility.mark(shown(0.9, 0.4, 0.9, files="float32"), KEYS, [RANK], "end")


def test_what_knows_of_the_gate_is_not_marked_but_a_norm_that_matches_is(shown):
    study = shown(0.9, 0.4, 0.9)
    sparsity = QUANTITIES["sparsity"]
    assert not visibility.mark(study, KEYS, [sparsity], "end")
    assert "Relative norm" in visibility.mark(study, KEYS, [sparsity], "norm")


def test_one_arm_is_compared_with_its_own_past(shown):
    study = shown(0.9, 0.4, 0.9)
    assert not visibility.mark(study, ["sft"], [RANK], "progress", "end")
    note = visibility.mark(study, ["opd"], [RANK], "progress", "end")
    assert "OPD at 20% of each run 40.0" in note


def test_an_arm_without_readings_leaves_no_mark(shown):
    study = shown(0.9, 0.4, 0.9)
    with pytest.raises(samples.CannotTell):
        samples.sample(study, [*KEYS, "rlvr-long"], RANK, "end")
    assert not visibility.mark(study, [*KEYS, "rlvr-long"], [RANK], "end")


def test_marks_stand_beside_claims_tables_and_figures(shown, tmp_path):
    from offaxis.report import write_report

    study = shown(0.9, 0.4, 0.9, seeds=3)
    narrowest = judge_one(study, next(claim for claim in CLAIMS if claim.key == "narrowest"))
    assert "40.0\u202f%" in narrowest.mark
    assert all(item.mark for item in summary.matched_tables(study) if item.table)
    text = write_report(tmp_path).read_text("utf-8")
    assert text.count('<p class="mark">') >= 5
    assert '<span class="mark">' in text


def test_figures_are_marked_though_not_all_arms_reach_one_norm(results, tmp_path, planted_arm):
    fractions, norms = (
        {"sft": 0.9, "opd": 0.4, "rlvr": 0.9},
        {"sft": 0.9, "opd": 0.02, "rlvr": 0.02},
    )
    arms = {
        key: planted_arm(
            norms[key], files="bfloat16", steps=9, effects={"visible_fraction": fractions[key]}
        )
        for key in KEYS
    }
    group = sections.figure_groups(load_study(results(tmp_path, arms, count=3)))["matched"]
    assert all("OPD 40.0\u202f%, RLVR 90.0\u202f%" in figure.mark for figure in group.figures)


def test_the_gate_stands_in_a_table_with_its_nulls(shown):
    table = visibility.gate_table(shown(0.9, 0.4, 0.9))
    assert [row[0] for row in table.rows] == ["SFT", "OPD", "RLVR"]
    visible = [row[1] for row in table.rows]
    assert visible == ["90.0\u202f%", "40.0\u202f%", "90.0\u202f%"]
    assert table.head[1:3] == ("Update visible in bf16", "null")
    assert table.rows[0][2] == "100\u202f% ± 1.00"
