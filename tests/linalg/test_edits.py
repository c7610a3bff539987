"""Edits of an update against their definitions, and against the nearest matrices by search."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offaxis.linalg import edits

DOUBLE = torch.float64


def matrix(rows: int, cols: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 14), st.integers(0, 99))
def test_a_truncated_update_and_its_rest_add_up(m: int, n: int, k: int, seed: int) -> None:
    D, p = matrix(m, n, seed), min(m, n)
    top = edits.truncated(D, k)
    rest = edits.truncated(D, p - k, "bottom") if k < p else torch.zeros_like(D)
    torch.testing.assert_close(top + rest, D, rtol=0, atol=1e-12)
    s = torch.linalg.svdvals(D)
    padded = torch.nn.functional.pad(s[:k], (0, p - len(s[:k])))
    torch.testing.assert_close(torch.linalg.svdvals(top), padded, rtol=0, atol=1e-12)
    assert float(edits.to_norm_of(top, D).norm()) == pytest.approx(float(D.norm()))


def test_a_zero_update_stays_zero() -> None:
    zero = torch.zeros(3, 4, dtype=DOUBLE)
    assert not edits.to_norm_of(edits.truncated(zero, 2), matrix(3, 4, 0)).any()
    assert not edits.turned_at_random(zero, torch.Generator()).any()


def test_a_fixed_spectrum_is_the_anchors_and_no_such_matrix_is_nearer() -> None:
    W0 = matrix(6, 9, 1)
    W = W0 + 0.3 * matrix(6, 9, 2)
    found = edits.with_spectrum_of(W, W0)
    s0, s = torch.linalg.svdvals(W0), torch.linalg.svdvals(W)
    torch.testing.assert_close(torch.linalg.svdvals(found), s0)
    assert float((found - W).norm()) == pytest.approx(float((s - s0).norm()))
    U, _, Vh = torch.linalg.svd(found, full_matrices=False)
    for seed in range(20):
        K = 0.05 * matrix(6, 6, seed)
        other = torch.linalg.matrix_exp(K - K.T) @ U * s0 @ Vh
        assert float((other - W).norm()) >= float((found - W).norm())


def test_random_directions_keep_the_spectrum_and_nothing_else() -> None:
    D = edits.truncated(matrix(40, 60, 3), 3)
    drawn = [edits.turned_at_random(D, torch.Generator().manual_seed(i)) for i in range(30)]
    for E in drawn:
        torch.testing.assert_close(
            torch.linalg.svdvals(E), torch.linalg.svdvals(D), rtol=0, atol=1e-12
        )
    cosines = torch.stack([(E * D).sum() / D.square().sum() for E in drawn])
    assert abs(float(cosines.mean())) < 4 / (30 * 2400) ** 0.5
    assert float(cosines.std()) < 3 / 2400**0.5


def test_extrapolation_goes_on_along_the_last_step() -> None:
    before, W = torch.tensor([1.0], dtype=DOUBLE), torch.tensor([1.5], dtype=DOUBLE)
    assert edits.extrapolated(W, before, 2.0).tolist() == [2.5]
