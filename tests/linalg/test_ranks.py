"""Ranks of prescribed spectra, against values computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg import ranks


def spectrum(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_values_by_hand() -> None:
    s = spectrum(4, 2, 2, 0)
    assert ranks.stable_rank(s) == 24 / 16
    assert ranks.effective_rank(s) == pytest.approx(
        math.exp(0.5 * math.log(2) + 0.5 * math.log(4)), rel=1e-14
    )
    assert ranks.count_above(s, 2.0) == 1
    assert ranks.hill_exponent(s, 2) == pytest.approx(1 / math.log(2), rel=1e-14)
    assert ranks.hill_exponent(s, 3) == pytest.approx(2 / math.log(2), rel=1e-14)


def test_degenerate_spectra_have_documented_values() -> None:
    zero = spectrum(0, 0)
    assert ranks.stable_rank(zero) == ranks.effective_rank(zero) == 0
    assert ranks.hill_exponent(zero, 2) is None
    assert ranks.hill_exponent(spectrum(1, 1, 1), 3) is None
    assert ranks.hill_exponent(spectrum(1, 0.5, 0), 3) is None
    assert ranks.hill_exponent(spectrum(1, 0.5), 1) is None
    assert ranks.hill_exponent(spectrum(1, 0.5), 3) is None


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_ranks_are_bounded_and_free_of_scale(values: list[float], scale: float) -> None:
    s = spectrum(*sorted(values, reverse=True))
    stable, effective = ranks.stable_rank(s), ranks.effective_rank(s)
    numerical = len(values)
    assert 1 - 1e-12 <= stable <= numerical * (1 + 1e-12)
    assert 1 - 1e-12 <= effective <= numerical * (1 + 1e-12)
    assert ranks.stable_rank(scale * s) == pytest.approx(stable, rel=1e-12)
    assert ranks.effective_rank(scale * s) == pytest.approx(effective, rel=1e-12)


def test_iid_noise_has_the_stated_stable_rank() -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 600, generator=g, dtype=torch.float64)
    found = ranks.stable_rank(torch.linalg.svdvals(noise))
    # the largest value of a finite sample lies about p^(-2/3) below the edge
    assert found == pytest.approx(ranks.iid_stable_rank(300, 600), rel=0.03)
