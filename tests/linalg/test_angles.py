"""Angles are judged by construction: bases whose principal angles are prescribed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.errors import NumericsError
from offaxis.linalg.angles import RESIDUAL, principal_angles, turned
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


def test_containment_is_the_angle_into_a_larger_space() -> None:
    first, second = bases([1e-8, 0.2, 0.7], 12, 6)
    larger = torch.linalg.qr(torch.cat([second[:, 2:], first], 1)).Q
    assert float(principal_angles(first, larger).max()) < 1e-14
    into = principal_angles(second, torch.linalg.qr(torch.cat([first, second[:, 2:]], 1)).Q)
    assert into.shape == (3,)
    assert float(into[0]) < 1e-14
    assert bool((into <= principal_angles(first, second) + 1e-14).all())


def test_more_dimensions_than_the_space_has_left() -> None:
    g = torch.Generator().manual_seed(7)
    one, other = (
        torch.linalg.qr(torch.randn(5, 4, generator=g, dtype=torch.float64)).Q for _ in range(2)
    )
    found = principal_angles(one, other)
    assert float(found[2]) < 1e-14
    assert float(found[3].cos()) == pytest.approx(float(torch.linalg.svdvals(one.T @ other)[-1]))


def planted(angles: list[float], shape: tuple[int, int], seed: int) -> tuple:
    """A matrix, its top-k triples and a left basis at the given angles to theirs."""
    g = torch.Generator().manual_seed(seed)
    k = len(angles)
    U = torch.linalg.qr(torch.randn(shape[0], 2 * k, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(shape[1], 2 * k, generator=g, dtype=torch.float64)).Q
    s = torch.linspace(2, 1, 2 * k, dtype=torch.float64)
    theta = torch.tensor(angles, dtype=torch.float64)
    mix = torch.linalg.qr(torch.randn(k, k, generator=g, dtype=torch.float64)).Q
    Q = (U[:, :k] * theta.cos() + U[:, k:] * theta.sin()) @ mix
    lost = (s[:k].square() - s[k:].square()) * theta.sin().square()
    return U * s @ V.T, s[:k], U[:, :k], Q, float(lost.sum() / s[:k].square().sum())


@given(
    st.lists(st.floats(-7, math.log10(1.5)).map(lambda x: 10**x), min_size=1, max_size=5),
    st.sampled_from([(14, 40), (40, 14)]),
    st.integers(0, 10**6),
    st.sampled_from([1.0, 1e150, 1e-200]),
)
def test_a_planted_turn_is_recovered(
    angles: list[float], shape: tuple[int, int], seed: int, scale: float
) -> None:
    W, s, U, Q, wanted = planted(angles, shape, seed)
    found = turned(W * scale, s * scale, U, Q)
    assert found.energy_lost == pytest.approx(wanted, rel=1e-6, abs=1e-18)
    true = torch.tensor(sorted(angles), dtype=torch.float64)
    assert float((found.angles - true).abs().max()) <= RESIDUAL * max(angles) + 1e-14
    right = planted(angles, shape[::-1], seed)
    lost = turned(right[0], *right[1:4]).energy_lost
    assert lost == pytest.approx(right[4], rel=1e-6, abs=1e-18)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 10**6), st.floats(-6, 0))
def test_containment_is_that_of_the_judge(k: int, more: int, seed: int, size: float) -> None:
    g = torch.Generator().manual_seed(seed)
    old = torch.linalg.qr(torch.randn(14, k, generator=g, dtype=torch.float64)).Q
    rest = torch.randn(14, more, generator=g, dtype=torch.float64)
    moved = old + 10**size * torch.randn(14, k, generator=g, dtype=torch.float64)
    new = torch.linalg.qr(torch.cat([moved, rest], 1)).Q
    W = torch.randn(14, 20, generator=g, dtype=torch.float64)
    found = turned(W, torch.linspace(2, 1, k, dtype=torch.float64), old, new)
    for angles, judge in ((found.angles, new[:, :k]), (found.contained, new)):
        true = principal_angles(old, judge)
        assert float((angles - true).abs().max()) <= RESIDUAL * float(true[-1]) + 1e-14


def energy_lost_of(W: torch.Tensor, s: torch.Tensor, U: torch.Tensor, Q: torch.Tensor) -> float:
    return turned(W, s, U, Q).energy_lost


def test_energy_lost_at_its_ends() -> None:
    W, s, U, _, _ = planted([0.1, 0.2], (9, 20), 1)
    assert energy_lost_of(W, s, U, U) <= 1e-30
    outside = torch.linalg.qr(torch.cat([exact_svd(W).U[:, :4], torch.eye(9).double()], 1)).Q
    assert energy_lost_of(W, s, U, outside[:, 5:7]) == pytest.approx(1, abs=1e-14)
    assert energy_lost_of(0 * W, 0 * s, U, U) == 0
    assert energy_lost_of(W.bfloat16(), s, U, U) <= 1e-30
