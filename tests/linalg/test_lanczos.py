"""The top of a spectrum: prescribed, planted in noise, tied, or pure rounding noise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg.lanczos import top_singular

DOUBLE = torch.float64


def built(shape: tuple[int, int], s: torch.Tensor, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(size, len(s), generator=g, dtype=DOUBLE)).Q for size in shape
    )
    return U * s @ V.T


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    K=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    decay=st.floats(0, 1),
    double=st.booleans(),
)
def test_every_bound_holds(
    shape: tuple[int, int], K: int, seed: int, decay: float, double: bool
) -> None:
    p = min(shape)
    s = torch.arange(1, p + 1, dtype=DOUBLE) ** -decay
    D = built(shape, s, seed)
    found = top_singular(D, K, seed=seed, double=double)
    count = min(K, p)
    assert found.s.shape == (count,)
    assert bool(((found.s - s[:count]).abs() <= found.bound).all())
    eye = torch.eye(count, dtype=DOUBLE)
    left, right = found.left.double(), found.right.double()
    for Q in (left, right):
        torch.testing.assert_close(Q.T @ Q, eye, rtol=0, atol=1e-5)
    rounding = 1e-13 if double else 1e-5
    for kept in (D @ right - left * found.s, D.T @ left - right * found.s):
        assert bool((kept.norm(dim=0) <= found.residual + rounding).all())


@pytest.mark.parametrize("seed", range(20))
def test_the_top_of_rounding_noise(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(300, 500, generator=g) * torch.randn(300, 1, generator=g).exp()
    D = W.bfloat16().float() - W
    truth = float(torch.linalg.svdvals(D.double())[0])
    found = top_singular(D, seed=seed)
    assert abs(float(found.s[0]) / truth - 1) <= 1e-4
    assert abs(float(found.s[0]) - truth) <= float(found.bound[0])
    assert float(found.bound[0]) <= 1e-3 * truth


@pytest.mark.parametrize("seed", range(5))
def test_the_top_of_flat_noise(seed: int) -> None:
    """No gap at all: the hardest case."""
    D = torch.randn(400, 400, generator=torch.Generator().manual_seed(seed))
    truth = float(torch.linalg.svdvals(D.double())[0])
    found = top_singular(D, seed=seed, max_steps=100)
    assert abs(float(found.s[0]) / truth - 1) <= 1e-4
    assert abs(float(found.s[0]) - truth) <= float(found.bound[0])


def test_a_gap_gives_six_digits_in_few_steps() -> None:
    g = torch.Generator().manual_seed(0)
    D = torch.randn(300, 600, generator=g) + 20 * torch.ones(300, 600) / 10
    truth = float(torch.linalg.svdvals(D.double())[0])
    found = top_singular(D)
    assert abs(float(found.s[0]) / truth - 1) <= 1e-6
    assert found.steps <= 16


def test_sixteen_vectors_to_the_last_digit() -> None:
    s = torch.cat([torch.linspace(3, 2, 16), torch.linspace(1, 0.5, 100)]).double()
    D = built((150, 200), s, 1)
    found = top_singular(D, 16, tolerance=1e-12, max_steps=116, double=True)
    assert float(found.residual.max()) <= 1e-11
    torch.testing.assert_close(found.s, s[:16], rtol=1e-13, atol=0)


def test_equal_values_are_all_found() -> None:
    s = torch.tensor([2.0, 2, 2, 1, 1, 0.5, 0.1, 0, 0], dtype=DOUBLE)
    found = top_singular(built((9, 30), s, 2), 5, double=True, tolerance=1e-10)
    torch.testing.assert_close(found.s, s[:5], rtol=1e-12, atol=0)
    identity = top_singular(torch.eye(6), 6)
    torch.testing.assert_close(identity.s, torch.ones(6, dtype=DOUBLE), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (7, 5)])
def test_a_zero_matrix(shape: tuple[int, int]) -> None:
    found = top_singular(torch.zeros(shape), 3)
    assert found.s.tolist() == [0.0] * min(3, *shape)
    assert not bool(found.bound.any())
    for Q in (found.left, found.right):
        torch.testing.assert_close(Q.T @ Q, torch.eye(len(found.s)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("exponent", [-126, -60, 60, 120])
def test_size_does_not_matter(exponent: int) -> None:
    D = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    plain, scaled = top_singular(D, 2), top_singular(torch.ldexp(D, torch.tensor(exponent)), 2)
    torch.testing.assert_close(plain.s, scaled.s * 2.0**-exponent, rtol=1e-5, atol=0)


def test_the_result_is_that_of_its_seed() -> None:
    D = torch.randn(50, 60, generator=torch.Generator().manual_seed(0))
    one, same, other = (top_singular(D, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.right, same.right)
    assert not torch.equal(one.right, other.right)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("entries", [[1.0], [1.0, 0.5, 0.2], [1.0, 1.0, 1e-3]])
def test_an_update_of_fewer_directions_than_asked_for(entries: list[float], double: bool) -> None:
    D = torch.zeros(128, 200)
    D[: len(entries), : len(entries)] = torch.tensor(entries).diag()
    for seed in range(4):
        top = top_singular(D, 16, seed=seed, double=double)
        truth = D.diagonal()[:16].double()
        assert bool(((top.s - truth).abs() <= top.bound).all())
        for vectors in (top.left, top.right):
            eye = torch.eye(16, dtype=vectors.dtype)
            assert float((vectors.T @ vectors - eye).abs().max()) < (1e-13 if double else 1e-5)
