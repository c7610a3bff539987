import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from tests.reproduction import simulation

from offaxis.errors import ResultsError
from offaxis.report.quantities import MINUS
from offaxis.report.verdicts import Verdict as Answer
from offaxis.reproduction.claims import Claim, Declaration, load_claims
from offaxis.reproduction.statistics import corrected
from offaxis.reproduction.verdicts import decide, evaluate

HOLDS, FAILS, UNKNOWN = Answer.HOLDS, Answer.FAILS, Answer.UNKNOWN
SCATTER = np.array([-1.0, 1.0, -0.5, 0.5, -0.2, 0.2, -0.8, 0.8])
BASE = {
    "id": "one",
    "figure": "fig4",
    "sentence": "One exceeds other.",
    "words": "more",
    "quantity": "hill",
    "contrasts": [{"one": 1, "other": -1}],
    "direction": "above",
    "margin": 0.5,
    "reason": "half a point would be seen",
}
LONG = pytest.mark.parametrize("studies", [100, pytest.param(1000, marks=pytest.mark.trials)])


def judge(columns, nulls=(), **changes):
    """The verdict on one claim of a table with these columns, by arm or `arm@point`."""
    claim = Claim.model_validate({**BASE, **changes})
    declared = Declaration(misses=0.05, claims=(claim,))
    cells = {term: claim.cell(claim._term(term)) for term in (*columns, *nulls)}
    return evaluate(
        declared,
        simulation.table(
            {cells[term]: column for term, column in columns.items()},
            {cells[term]: {"": column} for term, column in dict(nulls).items()},
        ),
    )[0]


def arms(difference, scatter=0.1):
    return {"one": 5 + difference + scatter * SCATTER, "other": np.full(8, 5.0)}


@pytest.mark.parametrize(
    ("direction", "true", "false", "undecidable"),
    [
        ("above", 1.0, 0.0, 0.5),
        ("above", 1.0, -1.0, 0.45),
        ("below", -1.0, 0.0, -0.5),
        ("below", -1.0, 1.0, -0.55),
        ("within", 0.0, 1.0, 0.5),
        ("within", 0.1, -1.0, -0.45),
        ("beyond", 1.0, 0.0, 0.5),
        ("beyond", -1.0, 0.1, -0.55),
    ],
)
def test_a_claim_is_true_false_or_undecidable(direction, true, false, undecidable):
    answers = [judge(arms(x), direction=direction) for x in (true, false, undecidable)]
    assert [verdict.answer for verdict in answers] == [HOLDS, FAILS, UNKNOWN]
    assert answers[0].decider is None
    assert answers[1].decider.contrast == f"one {MINUS} other"
    assert "leave it open" in answers[2].decider.why


def test_ratios_are_judged_as_ratios():
    both = {"one": 3.0 * np.exp(0.05 * SCATTER), "other": np.full(8, 2.0)}
    ratio = {"scale": "ratio", "direction": "above"}
    verdict = judge(both, margin=1.2, **ratio)
    assert verdict.answer is HOLDS
    finding = verdict.findings[0]
    assert finding.contrast == "one / other"
    assert finding.value == pytest.approx(1.5)
    assert finding.interval.low < 1.5 < finding.interval.high
    assert finding.arms["other"] == 2.0
    assert judge(both, margin=2.0, **ratio).answer is FAILS
    assert judge(both, margin=1.5, **ratio).answer is UNKNOWN
    nothing = judge({**both, "one": np.zeros(8)}, margin=1.2, **ratio)
    assert nothing.answer is UNKNOWN
    assert "not positive" in nothing.decider.why


def test_what_is_claimed_of_the_excess_is_judged_beside_the_null():
    one = {"one": 0.2 + 0.01 * SCATTER}
    alone = {"contrasts": [{"one": 1}], "direction": "below", "margin": 0.02, "baseline": 0.3}
    as_published = judge(one, {"one": np.full(8, 0.2)}, **alone)
    assert as_published.answer is HOLDS
    assert as_published.findings[0].null == pytest.approx(0.2)
    control = {"excludes": "rounding", "of": "excess", "baseline": 0}
    verdict = judge(one, {"one": np.full(8, 0.2)}, **alone, controls=[control])
    assert (verdict.answer, verdict.as_published) == (FAILS, HOLDS)
    assert verdict.decider.excludes == "rounding"
    assert judge(one, {"one": np.full(8, 0.4)}, **alone, controls=[control]).answer is HOLDS
    without = judge(one, **alone, controls=[control])
    assert without.answer is UNKNOWN
    assert "null" in without.decider.why


CONTROLS = [
    {"excludes": "size", "point": "norm=matched"},
    {"excludes": "start", "contrasts": [{"one": 1, "third": -1}]},
]


@pytest.mark.parametrize(
    ("size", "start", "answer", "decider"),
    [
        (1.0, 1.0, HOLDS, None),
        (0.0, 1.0, FAILS, "size"),
        (0.5, 1.0, UNKNOWN, "size"),
        (1.0, 0.0, FAILS, "start"),
        (0.0, 0.0, FAILS, "size"),
        (0.5, 0.0, FAILS, "start"),
        (None, 0.0, FAILS, "start"),
        (None, 1.0, UNKNOWN, "size"),
        (1.0, None, UNKNOWN, "start"),
    ],
)
def test_a_control_that_refutes_decides_before_one_that_leaves_open(size, start, answer, decider):
    columns = arms(1.0)
    if size is not None:
        columns |= {"one@norm=matched": 5 + size + 0.1 * SCATTER, "other@norm=matched": [5.0] * 8}
    if start is not None:
        columns["third"] = np.full(8, 6.0 - start)
    verdict = judge(columns, controls=CONTROLS)
    assert verdict.answer is answer
    assert verdict.as_published is HOLDS
    assert (verdict.decider.excludes if verdict.decider else None) == decider
    if start is None:
        assert verdict.decider.why == "not run: third"
    if decider == "size" and size is None:
        assert verdict.decider.why.startswith("not measured: hill (linear, stored)")


def test_controls_do_not_save_what_does_not_hold_as_published():
    columns = {**arms(0.0), "third": np.full(8, 0.0)}
    verdict = judge(columns, controls=[CONTROLS[1]])
    assert (verdict.answer, verdict.decider.excludes) == (FAILS, "")


def test_every_contrast_of_a_comparison_has_to_hold():
    both = [{"one": 1, "other": -1}, {"third": 1, "one": -1}]
    rising = {**arms(1.0), "third": np.full(8, 7.0)}
    assert judge(rising, contrasts=both).answer is HOLDS
    assert judge({**rising, "third": np.full(8, 6.0)}, contrasts=both).answer is FAILS
    assert judge({**rising, "third": np.full(8, 6.5)}, contrasts=both).answer is UNKNOWN


@pytest.mark.parametrize("draws", [1, 2, 3, 4])
def test_fewer_than_five_draws_decide_nothing(draws):
    columns = {arm: column[:draws] for arm, column in arms(1000.0, 1e-3).items()}
    for direction in ("above", "below", "within", "beyond"):
        verdict = judge(columns, direction=direction)
        assert verdict.answer is UNKNOWN
        assert "nothing" in verdict.decider.why
    five = {arm: column[:5] for arm, column in arms(1000.0, 1e-3).items()}
    assert judge(five).answer is HOLDS


def test_copies_of_one_draw_decide_nothing():
    verdict = judge({"one": np.full(8, 9.0), "other": np.full(8, 5.0)})
    assert verdict.answer is UNKNOWN
    assert "agree to rounding" in verdict.decider.why


def test_draws_are_paired_and_those_without_an_arm_are_counted():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 50, size=8)  # draws differ far more than arms do
    columns = {"one": base + 1 + 0.1 * SCATTER, "other": base}
    finding = judge(columns).findings[0]
    assert (finding.num_draws, finding.of_draws) == (8, 8)
    assert finding.value == pytest.approx(1.0)
    columns["other"] = [*base[:6], float("nan"), float("inf")]
    finding = judge(columns).findings[0]
    assert (finding.num_draws, finding.of_draws) == (6, 8)
    assert finding.answer is HOLDS


def test_a_table_that_cannot_be_used_is_refused():
    claims = Declaration(misses=0.05, claims=(Claim.model_validate(BASE),))
    with pytest.raises(ResultsError, match="no column"):
        evaluate(claims, pa.table({"draw": [0]}))
    cell = claims.claims[0].cell(claims.claims[0]._term("one"))
    once = simulation.table({cell: [1.0]}, {})
    twice = pa.concat_tables([once, simulation.table({cell: [2.0]}, {})])
    with pytest.raises(ResultsError, match="twice"):
        evaluate(claims, twice)
    same = evaluate(claims, pa.concat_tables([once, once]))
    assert same[0].answer is UNKNOWN


def test_the_primary_null_comes_first_and_others_are_asked_for_by_name():
    claim = Claim.model_validate({**BASE, "contrasts": [{"one": 1}], "of": "excess"})
    cell = claim.cell(claim._term("one"))
    first = simulation.table({cell: 5 + SCATTER / 10}, {cell: {"": np.full(8, 5.0)}})
    other = simulation.table({cell: 5 + SCATTER / 10}, {cell: {"": np.full(8, 1.0)}})
    named = other.set_column(
        other.column_names.index("null_name"), "null_name", pa.array(["walk"] * 8)
    )
    table = pa.concat_tables([first, named])
    answers = [
        evaluate(
            Declaration(misses=0.05, claims=(claim.model_copy(update={"null": null}),)), table
        )[0].answer
        for null in ("", "chance", "walk", "unknown")
    ]
    assert answers == [FAILS, FAILS, HOLDS, UNKNOWN]


@given(
    st.lists(st.floats(-3, 3), min_size=5, max_size=9),
    st.floats(0.1, 2),
    st.sampled_from([0.05, 0.003]),
)
def test_a_region_and_its_complement_never_both_hold(sample, margin, misses):
    sample = np.array(sample)
    answers = {d: decide(sample, d, margin, misses) for d in ("above", "below", "within", "beyond")}
    opposite = {HOLDS: FAILS, FAILS: HOLDS, UNKNOWN: UNKNOWN}
    assert answers["beyond"] is opposite[answers["within"]]
    assert [answers["above"], answers["below"]].count(HOLDS) < 2
    if HOLDS in (answers["above"], answers["below"]):
        assert answers["within"] is FAILS
    if answers["within"] is HOLDS:
        assert answers["above"] is answers["below"] is FAILS


@given(st.lists(st.floats(-3, 3), min_size=5, max_size=9), st.randoms(use_true_random=False))
def test_the_order_of_draws_and_the_unit_change_no_answer(sample, random):
    shuffled = random.sample(sample, len(sample))
    for direction in ("above", "within"):
        answer = decide(np.array(sample), direction, 0.5, 0.01)
        assert decide(np.array(shuffled), direction, 0.5, 0.01) is answer
        assert decide(8 * np.array(sample), direction, 4.0, 0.01) is answer


@given(st.lists(st.floats(-3, 3), min_size=5, max_size=9), st.floats(0, 2))
def test_a_stricter_correction_never_decides_more(sample, margin):
    sample = np.array(sample)
    strict, loose = (decide(sample, "above", margin, misses) for misses in (0.001, 0.05))
    assert strict in (loose, UNKNOWN)


def test_every_declared_claim_can_hold_and_can_fail(declared):
    rng = np.random.default_rng(0)
    true = simulation.solved(simulation.every(declared), simulation.inside, 8, rng)
    assert {verdict.answer for verdict in evaluate(declared, true)} == {HOLDS}
    false = simulation.solved(declared.claims, simulation.outside, 8, rng)
    assert {verdict.as_published for verdict in evaluate(declared, false)} == {FAILS}


def test_nothing_is_said_of_what_was_not_run(declared):
    empty = simulation.table({next(iter(declared.cells())): [0.5]}, {})
    for verdict in evaluate(declared, empty):
        assert verdict.answer is UNKNOWN
        assert verdict.decider.why.startswith(("not run: ", "not measured: ", "one draw"))


def most(studies, share):
    """How many of these studies may err before the share is exceeded, once in a thousand."""
    return binom.ppf(0.999, studies, share)


@LONG
def test_under_exchanged_arms_false_verdicts_stay_within_the_rate(declared, studies):
    rng = np.random.default_rng(1)
    worlds = (simulation.exchanged(declared, 8, rng) for _ in range(studies))
    false = sum(bool(simulation.holding(evaluate(declared, world))) for world in worlds)
    assert false <= most(studies, declared.misses)


@LONG
def test_the_correction_is_needed_where_every_contrast_is_a_claim(declared, studies):
    rng = np.random.default_rng(2)
    single = simulation.differences_of_arms(declared)
    naive = simulation.uncorrected(single)
    false = {"corrected": 0, "uncorrected": 0}
    for _ in range(studies // 5):
        world = simulation.exchanged(declared, 8, rng)
        false["corrected"] += bool(simulation.holding(evaluate(single, world)))
        false["uncorrected"] += bool(simulation.holding(evaluate(naive, world)))
    assert false["corrected"] <= most(studies // 5, declared.misses)
    assert false["uncorrected"] > most(studies // 5, declared.misses)


@LONG
def test_on_the_bounds_the_published_comparisons_stay_within_the_rate(declared, studies):
    rng = np.random.default_rng(3)
    published = simulation.without_controls(declared)
    naive = simulation.uncorrected(published)
    false = {"corrected": 0, "uncorrected": 0}
    for _ in range(studies):
        world = simulation.on_the_bounds(published, 8, rng)
        false["corrected"] += bool(simulation.holding(evaluate(published, world)))
        false["uncorrected"] += bool(simulation.holding(evaluate(naive, world)))
    assert false["corrected"] <= most(studies, declared.misses)
    assert false["uncorrected"] > declared.misses * studies


def test_the_correction_is_for_the_claims_declared():
    assert corrected(0.05, 20) == pytest.approx(0.0025)
    declared = load_claims()
    verdicts = evaluate(declared, simulation.exchanged(declared, 5, np.random.default_rng(0)))
    assert {v.misses for v in verdicts} == {declared.misses / len(declared.claims)}
