"""Angles are judged by construction: bases whose principal angles are prescribed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.errors import NumericsError
from offaxis.linalg.angles import principal_angles
from offaxis.linalg.spectra import exact_svd

EPS = torch.finfo(torch.float64).eps


def bases(angles: list[float], n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two orthonormal bases of R^n whose principal angles are `angles`, each freely rotated."""
    g = torch.Generator().manual_seed(seed)
    k = len(angles)
    frame = torch.linalg.qr(torch.randn(n, 2 * k, generator=g, dtype=torch.float64)).Q
    theta = torch.tensor(angles, dtype=torch.float64)
    first, second = frame[:, :k], frame[:, :k] * theta.cos() + frame[:, k:] * theta.sin()
    mix = [torch.linalg.qr(torch.randn(k, k, generator=g, dtype=torch.float64)).Q for _ in range(2)]
    return first @ mix[0], torch.linalg.qr(second @ mix[1]).Q


@pytest.mark.parametrize(
    "angles",
    [
        [1e-9],
        [1.5],
        [0.0, 0.0],
        [1e-9, 1e-6, 1e-3, 0.5, 1.0, 1.5],
        [1e-8, 1.2],  # the pair that a mask applied in the wrong order gets wrong
        [math.pi / 4] * 3,
        [1e-9] * 4 + [1.5] * 4,
    ],
)
def test_prescribed_angles_are_recovered(angles: list[float]) -> None:
    for seed in range(5):
        found = principal_angles(*bases(angles, 40, seed))
        wanted = torch.tensor(sorted(angles), dtype=torch.float64)
        assert bool(((found - wanted).abs() <= 1e-9 * wanted + 100 * EPS).all())


@given(
    st.lists(st.floats(-9, math.log10(1.5)).map(lambda x: 10**x), min_size=1, max_size=6),
    st.integers(0, 10**6),
)
def test_any_mixture_is_recovered(angles: list[float], seed: int) -> None:
    found = principal_angles(*bases(angles, 24, seed))
    wanted = torch.tensor(sorted(angles), dtype=torch.float64)
    assert bool(((found - wanted).abs() <= 1e-9 * wanted + 100 * EPS).all())


@pytest.mark.parametrize("angles", [[1e-9, 1e-4, 1.5], [1e-6] * 3, [0.3, 0.6, 1.2]])
def test_angles_of_singular_subspaces(angles: list[float]) -> None:
    """Through an SVD, with the error that the gap of the spectrum allows."""
    k, n = len(angles), 30
    left, _ = bases(angles, n, 1)
    old, new = bases(angles, n, 2)
    s = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    tail = 0.5
    found = []
    for right in (old, new):
        rest = torch.linalg.qr(torch.cat([right, torch.eye(n, dtype=torch.float64)], 1)).Q
        W = (
            left * s @ right.T
            + tail
            * torch.linalg.qr(torch.cat([left, torch.eye(n, dtype=torch.float64)], 1)).Q[
                :, k : 2 * k
            ]
            @ rest[:, k : 2 * k].T
        )
        Vh = exact_svd(W).Vh
        assert Vh is not None
        found.append(Vh[:k].T)
    wanted = torch.tensor(sorted(angles), dtype=torch.float64)
    bound = 1e-9 * wanted + 100 * EPS * 3.0 / (1.0 - tail)
    assert bool(((principal_angles(*found) - wanted).abs() <= bound).all())


def test_different_dimensions_and_order() -> None:
    first, second = bases([0.1, 0.2, 0.7], 12, 3)
    assert principal_angles(first, second[:, :1]).shape == (1,)
    both = principal_angles(first, second), principal_angles(second, first)
    torch.testing.assert_close(*both, rtol=0, atol=1e-14)
    assert both[0].tolist() == sorted(both[0].tolist())


def test_identical_subspaces_read_nothing() -> None:
    first, _ = bases([0.1, 0.2], 50, 4)
    assert float(principal_angles(first, first).max()) < 1e-14


def test_a_basis_that_is_not_orthonormal_is_refused() -> None:
    first, second = bases([0.1, 0.2], 10, 5)
    with pytest.raises(NumericsError, match="Q_b"):
        principal_angles(first, second * 1.001)
