"""Second moments without gradients against the gradients themselves; bounds against matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offaxis.linalg.moments import (
    Samples,
    cross_moment,
    energy_share,
    fitted,
    mixed_moment,
    moment_of,
)
from offaxis.linalg.theorems import slack_of

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def samples(B: int = 5, S: int = 3, m: int = 6, n: int = 4, seed: int = 0) -> Samples:
    return Samples(random(B, S, m, seed=seed), random(B, S, n, seed=seed + 1))


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_moments_are_those_of_the_gradients(B: int, S: int, m: int, n: int) -> None:
    a, b = samples(B, S, m, n), samples(B, S, m, n, seed=7)
    G, H = a.gradients(), b.gradients()
    torch.testing.assert_close(moment_of(a).right, (G.mT @ G).sum(0))
    torch.testing.assert_close(moment_of(a).left, (G @ G.mT).sum(0))
    torch.testing.assert_close(cross_moment(a, b).right, (G.mT @ H).sum(0))
    torch.testing.assert_close(cross_moment(a, b).left, (G @ H.mT).sum(0))
    torch.testing.assert_close(a.plus(b.scaled(2.0)).gradients(), G + 2 * H)
    assert moment_of(a).energy == pytest.approx(float(G.square().sum()) / B)


def test_a_mixture_is_exact_with_its_cross_term_and_not_without() -> None:
    a, alpha = samples(), 0.3
    b = Samples(a.outputs + 0.1 * random(5, 3, 6, seed=9), a.inputs)
    mixed = moment_of(a.scaled(alpha).plus(b.scaled(1 - alpha)))
    parts = moment_of(a), moment_of(b)
    whole = mixed_moment(*parts, cross_moment(a, b), alpha)
    torch.testing.assert_close(whole.right, mixed.right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.left, mixed.left, rtol=1e-12, atol=1e-12)
    left_out = mixed_moment(*parts, None, alpha)
    # nearly equal gradients: the squares of the weights are all that is left
    size = float(left_out.right.trace() / mixed.right.trace())
    assert size == pytest.approx(alpha**2 + (1 - alpha) ** 2, rel=0.05)


def test_planted_gradients_lie_in_their_subspace() -> None:
    Q = torch.linalg.qr(random(12, 3)).Q
    planted = Samples(random(8, 4, 6), random(8, 4, 3, seed=2) @ Q.T)
    assert energy_share(moment_of(planted).side("right"), Q) == pytest.approx(1)
    isotropic = moment_of(samples(400, 2, 6, 12)).side("right")
    assert energy_share(isotropic, Q) == pytest.approx(3 / 12, abs=0.02)
    assert energy_share(torch.zeros(12, 12, dtype=DOUBLE), Q) is None


def test_a_fit_is_that_of_least_squares() -> None:
    B = random(5, 5)
    E = random(5, 5, seed=1)
    E -= (E * B).sum() / B.square().sum() * B
    fit = fitted(3 * B + E, B)
    assert fit.factor == pytest.approx(3)
    assert fit.residual == pytest.approx(float(E.norm() / (3 * B.norm())))
    exact = fitted(2 * B, B)
    assert exact.residual == pytest.approx(0, abs=1e-12)
    assert fitted(B, torch.zeros_like(B)) is None
    assert fitted(torch.zeros_like(B), B) is None


@settings(max_examples=40)
@given(
    st.integers(2, 14),
    st.integers(2, 14),
    st.floats(-8, 1),
    st.sampled_from(["noise", "low rank", "turn", "stretch"]),
    st.integers(0, 99),
)
def test_no_bound_is_broken(m: int, n: int, size: float, kind: str, seed: int) -> None:
    W0 = random(m, n, seed=seed)
    U, s, Vh = torch.linalg.svd(W0, full_matrices=False)
    D = {
        "noise": random(m, n, seed=seed + 1),
        "low rank": torch.outer(random(m, seed=3), random(n, seed=4)),
        "turn": torch.outer(U[:, 0], Vh[-1]) - torch.outer(U[:, -1], Vh[0]),
        "stretch": U * s.flip(0) @ Vh,
    }[kind]
    k = 1 + seed % (min(m, n) - 1)
    found = slack_of(W0, W0 + 10**size * D, k)
    if found is None:
        return
    # an update of 1e-8 is known to 1e-8 of its own size
    for used in (found.weyl, found.mirsky, found.wedin or 0.0):
        assert 0 <= used <= 1 + 1e-6


def test_how_much_of_a_bound_is_used_is_what_was_planted() -> None:
    W0 = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=DOUBLE))
    stretched = slack_of(W0, W0 + 0.1 * torch.diag(torch.tensor([1.0, 1.0, 1.0]).double()), 1)
    assert stretched.weyl == pytest.approx(1)
    assert stretched.mirsky == pytest.approx(1)
    assert stretched.wedin == pytest.approx(0, abs=1e-12)
    angle = 0.01
    R = torch.eye(3, dtype=DOUBLE)
    R[0, 0] = R[1, 1] = math.cos(angle)
    R[0, 1], R[1, 0] = -math.sin(angle), math.sin(angle)
    turned = slack_of(W0, R @ W0 @ R.T, 1)
    assert turned.weyl == pytest.approx(0, abs=1e-12)
    assert turned.wedin * turned.wedin_bound == pytest.approx(math.sin(angle))
    assert turned.wedin_bound == pytest.approx(2 * math.sin(angle) / 2)
    assert slack_of(W0, W0, 1) is None
