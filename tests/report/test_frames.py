import math

import numpy as np
import pyarrow as pa
import pytest

from offaxis.report.frames import build_frame
from offaxis.report.quantities import MISSING, QUANTITIES, number, with_range
from offaxis.report.study import load_study
from offaxis.table import READINGS


def reading(**columns):
    base = {
        "run": "r",
        "step": 1,
        "tensor": "a",
        "view": "",
        "role": "q_proj",
        "rows": 2,
        "cols": 2,
        "diagnostic": "tail",
        "quantity": "hill",
        "definition": "v1;k=3;as=stored",
        "value": 1.0,
        "null_mean": 0.5,
        "null_sd": 0.2,
    }
    return base | columns


def frame(*rows):
    return build_frame(pa.Table.from_pylist(list(rows), schema=READINGS))


def test_matrices_count_once_and_their_null_spreads_add_in_squares():
    hill = frame(reading(), reading(tensor="b", rows=200, value=3.0)).series(
        "r", QUANTITIES["hill"]
    )
    assert hill.value == pytest.approx([2.0])
    assert hill.null_sd == pytest.approx([0.2 / math.sqrt(2)])
    assert hill.excess == pytest.approx([1.5])


def test_a_null_is_averaged_over_the_matrices_of_its_value():
    undefined = reading(tensor="b", value=None, null_mean=9.0, null_sd=5.0)
    hill = frame(reading(), undefined).series("r", QUANTITIES["hill"])
    assert hill.null_mean == pytest.approx([0.5])
    assert hill.null_sd == pytest.approx([0.2])


def test_a_null_that_some_matrices_lack_is_not_averaged_over_the_others():
    lacking = reading(tensor="b", value=3.0, null="none", null_mean=None, null_sd=None)
    hill = frame(reading(), lacking).series("r", QUANTITIES["hill"])
    assert hill.value == pytest.approx([2.0])
    assert np.isnan(hill.null_mean).all()


def test_a_null_in_closed_form_adds_no_spread():
    exact = reading(tensor="b", null_sd=None)
    hill = frame(reading(), exact).series("r", QUANTITIES["hill"])
    assert hill.null_sd == pytest.approx([0.1])
    assert np.isnan(frame(exact).series("r", QUANTITIES["hill"]).null_sd).all()


def test_a_matrix_of_unknown_size_has_no_weight():
    names = {"diagnostic": "sparsity", "quantity": "sparsity", "definition": "v1;as=stored"}
    made = frame(reading(**names), reading(**names, tensor="b", rows=None, value=0.0))
    assert made.series("r", QUANTITIES["sparsity"]).value == pytest.approx([100.0])


def test_sparsity_is_weighted_by_parameters_and_printed_in_percent():
    names = {"diagnostic": "sparsity", "quantity": "sparsity", "definition": "v1;as=stored"}
    series = frame(
        reading(**names, value=0.0), reading(**names, tensor="b", rows=6, value=1.0)
    ).series("r", QUANTITIES["sparsity"])
    assert series.value == pytest.approx([75.0])


def test_token_tables_stay_out_of_averages():
    made = frame(reading(), reading(tensor="e", role="embed_tokens", value=1e9))
    assert made.series("r", QUANTITIES["hill"]).value == pytest.approx([1.0])
    assert made.num_matrices == 1


def test_undefined_values_are_left_out_and_never_become_numbers():
    made = frame(reading(), reading(tensor="b", value=None), reading(step=2, value=None))
    value = made.series("r", QUANTITIES["hill"]).value
    assert value[0] == pytest.approx(1.0)
    assert np.isnan(value[1])


def test_the_stored_reading_is_taken_unless_another_is_asked_for():
    made = frame(reading(), reading(definition="v1;k=3;as=bf16", value=9.0))
    hill = QUANTITIES["hill"]
    assert made.series("r", hill).value == pytest.approx([1.0])
    assert made.series("r", hill.with_settings(as_="bf16")).value == pytest.approx([9.0])
    assert made.series("r", hill.with_settings(eta="4")) is None


def test_settings_fitted_to_a_matrix_do_not_split_an_average():
    made = frame(reading(), reading(tensor="b", definition="v1;k=2;as=stored", value=3.0))
    assert made.series("r", QUANTITIES["hill"]).value == pytest.approx([2.0])
    assert made.definitions["tail"] == ("v1;k=2;as=stored", "v1;k=3;as=stored")


def test_a_matrix_measured_twice_counts_once():
    made = frame(reading(), reading(definition="v1;k=2;as=stored", value=9.0))
    assert made.series("r", QUANTITIES["hill"]).value == pytest.approx([1.0])


def test_unknown_roles_are_averaged_too():
    made = frame(reading(role=None), reading(tensor="b", role="strange", value=3.0))
    assert made.series("r", QUANTITIES["hill"]).value == pytest.approx([2.0])


def test_runs_without_an_arm_stand_alone(results, tmp_path, planted_arm):
    study = load_study(
        results(tmp_path, {"opd": planted_arm(0.1)}, known_arms=False, log=False, name="opd{seed}")
    )
    assert [arm.label for arm in study.arms] == ["opd0", "opd1", "opd2"]
    assert study.arm("opd") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.345, "12.3"),
        (0.00123456, "0.00123"),
        (1234.5, "1,234"),
        (2.5e-7, "2.50e\u22127"),
        (-1.5, "\u22121.50"),
        (None, MISSING),
        (math.nan, MISSING),
    ],
)
def test_numbers_are_printed_with_three_digits(value, text):
    assert number(value) == text


def test_a_range_is_printed_where_it_can_be_seen():
    assert with_range([1.0, 1.0], "") == "1.00"
    assert with_range([1.0, 3.0], "%") == "2.00\u202f% [1.00\u20133.00]"
    assert with_range([], "") == MISSING
