import pytest
from hypothesis import given
from hypothesis import strategies as st

from offaxis.report import verdicts
from offaxis.report.verdicts import Reading, Verdict

LOW, HIGH = [1.0, 1.1, 1.2], [2.0, 2.1, 2.2]


def test_three_against_three_just_reaches_the_level():
    assert verdicts.rank_p(3, 3) == pytest.approx(0.05)
    assert verdicts.rank_p(2, 3) == pytest.approx(0.1)


def test_separated_arms_are_in_order():
    assert verdicts.greater(HIGH, LOW, margin=0.5) is Verdict.HOLDS
    assert verdicts.greater(LOW, HIGH, margin=0.5) is Verdict.FAILS


def test_arms_within_the_margin_are_equivalent():
    assert verdicts.greater(HIGH, LOW, margin=1.5) is Verdict.FAILS
    assert verdicts.differs(HIGH, LOW, margin=1.5) is Verdict.FAILS


def test_overlapping_arms_cannot_be_told():
    assert verdicts.greater([1.0, 2.0, 3.0], [0.5, 1.5, 2.5], margin=0.1) is Verdict.UNKNOWN
    assert verdicts.differs([1.0, 2.0, 3.0], [0.5, 1.5, 2.5], margin=0.1) is Verdict.UNKNOWN


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_too_few_seeds_cannot_tell(seeds):
    assert verdicts.greater(HIGH[:seeds], LOW[:seeds], margin=0.0) is Verdict.UNKNOWN
    assert verdicts.beyond_threshold(HIGH[:seeds], 1, 0.0) is Verdict.UNKNOWN
    readings = [Reading(1.0, 0.0, 0.0)] * seeds
    assert verdicts.beyond_null(readings, 1, 0.1) is Verdict.UNKNOWN


@given(
    st.lists(st.floats(-10, 10), min_size=3, max_size=5),
    st.lists(st.floats(-10, 10), min_size=3, max_size=5),
    st.floats(0, 5),
)
def test_an_order_never_holds_both_ways(one, other, margin):
    answers = {verdicts.greater(one, other, margin), verdicts.greater(other, one, margin)}
    assert answers != {Verdict.HOLDS}
    if Verdict.HOLDS in answers:
        assert answers == {Verdict.HOLDS, Verdict.FAILS}


def test_beyond_a_null_needs_margin_and_spread():
    clear = [Reading(0.40, 0.30, 0.01)] * 3
    noisy = [Reading(0.40, 0.30, 0.05)] * 3
    on_it = [Reading(0.31, 0.30, 0.01)] * 3
    assert verdicts.beyond_null(clear, 1, 0.02) is Verdict.HOLDS
    assert verdicts.beyond_null(clear, -1, 0.02) is Verdict.FAILS
    assert verdicts.beyond_null(noisy, 1, 0.02) is Verdict.UNKNOWN
    assert verdicts.beyond_null(on_it, 1, 0.02) is Verdict.FAILS


def test_combinations():
    holds, fails, unknown = Verdict.HOLDS, Verdict.FAILS, Verdict.UNKNOWN
    assert verdicts.all_of([holds, holds]) is holds
    assert verdicts.all_of([holds, unknown]) is unknown
    assert verdicts.all_of([unknown, fails]) is fails
    assert verdicts.all_of([]) is unknown
    assert verdicts.most_of([holds, holds, fails]) is holds
    assert verdicts.most_of([holds, fails]) is unknown
