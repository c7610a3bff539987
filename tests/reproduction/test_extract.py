"""From readings to the study table: means, nulls, spreads and points of known truth."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offaxis.reproduction.extract import STUDY, RunFacts, study_table
from offaxis.table import READINGS, TRAINING

ROLES = ("q_proj", "o_proj", "down_proj")
UNITS = {"rank": "v1", "norm": "v1", "sparsity": "v1;eta=0.001", "similarity": "v1;K=16;final=9"}


def reading(run, step, role, /, *of, **more):
    diagnostic, quantity, value = of
    row = dict.fromkeys(READINGS.names) | {
        "run": run,
        "step": step,
        "tensor": f"layers.0.{role}",
        "view": "",
        "role": role,
        "rows": 8,
        "cols": 16,
        "diagnostic": diagnostic,
        "quantity": quantity,
        "definition": f"{UNITS.get(diagnostic, 'v1')};as=stored",
        "value": value,
        "null": "sign_flip",
        "null_mean": 2.0 * value if value is not None else None,
    }
    return row | more


def curve(run, steps, of_step, diagnostic="rank", quantity="stable_rank", **more):
    """One quantity, the same in every matrix."""
    return [
        reading(run, step, role, diagnostic, quantity, float(of_step(step)), **more)
        for step, role in itertools.product(steps, ROLES)
    ]


def judged(run, accuracies):
    return [
        {"run": run, "step": step, "quantity": "accuracy", "value": value}
        for step, value in accuracies.items()
    ]


def table(readings, training=(), runs=None, draw=3):
    names = {row["run"] for row in (*readings, *training)}
    return study_table(
        draw,
        runs or {name: RunFacts(name) for name in sorted(names)},
        readings=pa.Table.from_pylist(list(readings), schema=READINGS),
        training=pa.Table.from_pylist(list(training), schema=TRAINING),
    ).to_pylist()


def value(
    rows, arm, quantity, point="end", *, matrices="linear", column="value", precision="stored"
):
    wanted = (arm, quantity, point, matrices, precision)
    keys = ("arm", "quantity", "point", "matrices", "precision")
    found = [row[column] for row in rows if tuple(row[key] for key in keys) == wanted]
    assert len(found) <= 1
    return found[0] if found else None


def test_every_checkpoint_the_early_one_and_the_end_are_points():
    rows = table(curve("opd", (2, 10, 20, 50, 100), lambda step: step))
    points = {row["point"]: row["progress"] for row in rows if row["quantity"] == "stable_rank"}
    assert points == {
        "step=2": 0.02,
        "step=10": 0.1,
        "step=20": 0.2,
        "step=50": 0.5,
        "step=100": 1.0,
        "early": 0.2,
        "end": 1.0,
    }
    assert value(rows, "opd", "stable_rank", "early") == 20
    assert value(rows, "opd", "stable_rank_change") == 80
    assert {row["draw"] for row in rows} == {3}
    assert list(rows[0]) == STUDY.names


def test_means_are_plain_by_kind_of_matrix_and_null_stands_beside():
    values = dict(zip(ROLES, (1.0, 2.0, 6.0), strict=True))
    rows = table([reading("a", 5, r, "rank", "stable_rank", v) for r, v in values.items()])
    assert value(rows, "a", "stable_rank") == 3
    assert value(rows, "a", "stable_rank", matrices="attention") == 1.5
    assert value(rows, "a", "stable_rank", matrices="mlp") == 6
    assert value(rows, "a", "stable_rank", column="null") == 6
    assert value(rows, "a", "stable_rank", column="null_name") == "sign_flip"
    assert value(rows, "a", "stable_rank", matrices="mlp", column="spread") is None


def test_sparsity_is_weighted_by_entries():
    rows = table(
        [
            reading("a", 5, "q_proj", "sparsity", "sparsity", 1.0, rows=1, cols=10),
            reading("a", 5, "up_proj", "sparsity", "sparsity", 0.0, rows=3, cols=10),
        ]
    )
    assert value(rows, "a", "sparsity") == pytest.approx(0.25)
    assert value(rows, "a", "sparsity", column="spread") > 0


def test_the_spread_is_the_standard_error_over_matrices():
    noise = np.random.default_rng(0).normal(5, 2, 400)
    rows = table(
        [
            reading("a", 5, "q_proj", "rank", "stable_rank", float(v), tensor=f"layers.{i}.q")
            for i, v in enumerate(noise)
        ]
    )
    expected = noise.std() / np.sqrt(len(noise))
    assert value(rows, "a", "stable_rank", column="spread") == pytest.approx(expected, rel=0.2)


def test_a_null_that_one_matrix_lacks_is_none_and_so_is_a_value_that_all_lack():
    rows = table(
        [
            reading("a", 5, "q_proj", "rank", "stable_rank", 1.0, null_mean=None),
            reading("a", 5, "o_proj", "rank", "stable_rank", 1.0),
            reading("a", 5, "o_proj", "tail", "hill", None),
        ]
    )
    assert value(rows, "a", "stable_rank") == 1
    assert value(rows, "a", "stable_rank", column="null") is None
    assert not any(row["quantity"] == "hill" for row in rows)


def test_token_tables_vectors_and_other_runs_stay_out():
    rows = table(
        [
            reading("a", 5, "q_proj", "norm", "frobenius_norm", 1.0),
            reading("a", 5, "embed_tokens", "norm", "frobenius_norm", 100.0),
            reading("a", 5, "q_norm", "norm", "frobenius_norm", 100.0, cols=1),
            reading("b", 5, "q_proj", "norm", "frobenius_norm", 7.0),
        ],
        runs={"a": RunFacts("opd")},
    )
    assert value(rows, "opd", "norm") == 1
    assert {row["arm"] for row in rows} == {"opd"}


def test_storages_and_ranks_of_similarity_are_told_apart():
    rows = table(
        [
            reading("a", 5, "q_proj", "norm", "frobenius_norm", 1.0),
            reading("a", 5, "q_proj", "norm", "frobenius_norm", 2.0, definition="v1;as=bf16"),
            reading("a", 5, "q_proj", "similarity", "right_to_final", 0.5),
            reading(
                "a",
                5,
                "q_proj",
                "similarity",
                "right_to_final",
                0.25,
                definition="v1;K=4;as=stored",
            ),
            reading("a", 5, "q_proj", "similarity", "right_increment", 0.125),
        ]
    )
    assert value(rows, "a", "norm") == 1
    assert value(rows, "a", "norm", precision="bf16") == 2
    assert value(rows, "a", "similarity") == 0.5
    assert value(rows, "a", "similarity_k4") == 0.25
    assert value(rows, "a", "increment_similarity") == 0.125


STEPS = (2, 5, 10, 25, 50, 100)


def power_law(arm, speed):
    """A run whose norm is speed * step, and whose stable rank is the square root of its norm."""
    return [
        *curve(arm, STEPS, lambda step: speed * step, "norm", "relative_norm"),
        *curve(arm, STEPS, lambda step: (speed * step) ** 0.5),
    ]


def test_at_a_matched_norm_arms_of_one_curve_agree_whatever_their_speed():
    rows = table([*power_law("sft", 3.0), *power_law("opd", 1.0), *power_law("rlvr", 0.5)])
    assert value(rows, "sft", "stable_rank") > 2 * value(rows, "rlvr", "stable_rank")
    target = 0.8 * 0.5 * 100
    for arm, speed in (("sft", 3.0), ("opd", 1.0), ("rlvr", 0.5)):
        assert value(rows, arm, "relative_norm", "norm=matched") == pytest.approx(target)
        found = value(rows, arm, "stable_rank", "norm=matched")
        assert found == pytest.approx(target**0.5)
        assert value(rows, arm, "stable_rank", "norm=matched", column="null") == pytest.approx(
            2 * found
        )
        progress = value(rows, arm, "stable_rank", "norm=matched", column="progress")
        assert progress == pytest.approx(target / speed / 100, rel=0.15)  # read between checkpoints


def test_an_arm_that_goes_less_far_has_no_matched_reading():
    rows = table([*power_law("sft", 3.0), *power_law("opd", 1.0), *power_law("mixed", 0.1)])
    assert value(rows, "opd", "stable_rank", "norm=matched") is not None
    assert value(rows, "mixed", "stable_rank", "norm=matched") is None


def test_other_arms_do_not_move_the_target():
    few = table([*power_law("sft", 3.0), *power_law("opd", 1.0)])
    many = table([*power_law("sft", 3.0), *power_law("opd", 1.0), *power_law("mixed", 0.1)])
    assert value(few, "opd", "stable_rank", "norm=matched") == value(
        many, "opd", "stable_rank", "norm=matched"
    )


def test_alone_an_arm_is_matched_with_nothing():
    assert not any("matched" in row["point"] for row in table(power_law("opd", 1.0)))


def test_a_linear_quantity_is_exact_at_a_matched_density():
    def run(arm, speed):
        return [
            *curve(arm, STEPS, lambda step: speed * step, "sparsity", "density"),
            *curve(arm, STEPS, lambda step: 1 - 7 * speed * step, "masks", "principal_overlap"),
        ]

    rows = table([*run("opd", 0.001), *run("rlvr", 0.0005)])
    for arm in ("opd", "rlvr"):
        assert value(rows, arm, "principal_overlap", "density=matched") == pytest.approx(0.72)


def test_at_matched_accuracy_a_run_is_read_where_it_was_as_good():
    rows = table(
        [*power_law("sft", 3.0), *power_law("opd", 1.0), *power_law("rlvr", 0.5)],
        [
            *judged("sft", {0: 0.3, 10: 0.4, 50: 0.8, 100: 0.9}),
            *judged("opd", {0: 0.3, 10: 0.35, 50: 0.45, 100: 0.7}),
            *judged("rlvr", {0: 0.3, 10: 0.3, 50: 0.35, 100: 0.45}),
        ],
    )
    assert value(rows, "opd", "relative_norm", "accuracy=matched") == pytest.approx(50)
    assert value(rows, "rlvr", "relative_norm", "accuracy=matched") == pytest.approx(50)
    assert value(rows, "sft", "relative_norm", "accuracy=matched") == pytest.approx(45)
    assert value(rows, "opd", "accuracy", "norm=matched") is not None
    assert value(rows, "opd", "gain") == pytest.approx(0.4)


def test_of_the_free_runs_gain_after_the_branch_the_share_that_is_kept():
    runs = {
        "free": RunFacts("opd"),
        "inside": RunFacts("opd-k16-early", "opd"),
        "alone": RunFacts("sft-k16-early", "sft"),
    }
    training = [
        *judged("free", {0: 0.3, 20: 0.4, 100: 0.8}),
        *judged("inside", {0: 0.4, 80: 0.6}),
        *judged("alone", {0: 0.4, 80: 0.6}),
    ]
    rows = table([], training, runs)
    assert value(rows, "opd-k16-early", "gain_kept") == pytest.approx(0.5)
    assert value(rows, "sft-k16-early", "gain_kept") is None  # its free run was not measured
    lost = [*training[:2], {**training[2], "value": 0.35}, *training[3:]]
    assert value(table([], lost, runs), "opd-k16-early", "gain_kept") is None


@settings(max_examples=10)
@given(st.permutations(range(18)))
def test_the_order_of_rows_changes_nothing(order):
    readings = curve("opd", STEPS, lambda step: step**0.5)
    shuffled = [readings[place] for place in order]
    assert table(shuffled) == table(readings)
