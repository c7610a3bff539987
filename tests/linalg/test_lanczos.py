"""The top of a spectrum: prescribed, planted in noise, tied, or pure rounding noise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg import krylov
from offaxis.linalg.lanczos import top_singular, top_values

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
            assert float((vectors.T @ vectors - eye).abs().max()) < (1e-12 if double else 1e-5)


@pytest.mark.parametrize("shape", [(11, 10), (10, 11), (10, 10)])
@pytest.mark.parametrize("K", [1, 2, 3])
def test_a_space_that_is_exhausted_at_every_step_stays_orthonormal(
    shape: tuple[int, int], K: int
) -> None:
    for seed in range(40):
        found = top_singular(built(shape, torch.ones(10, dtype=DOUBLE), seed), K, seed=seed)
        assert bool(((found.s - 1).abs() <= found.bound).all())
        for Q in (found.left, found.right):
            torch.testing.assert_close(Q.T @ Q, torch.eye(K), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [15, 16, 17, 40])
def test_more_copies_than_a_block_has_vectors(count: int) -> None:
    s = torch.cat([torch.full((count,), 2.0), torch.linspace(1, 0.1, 80)]).double()
    found = top_singular(built((130, 200), s, 3), 20, tolerance=1e-4)
    assert bool(((found.s - s[:20]).abs() <= found.bound).all())


@pytest.mark.parametrize("block", [1, 4])
def test_a_block_of_any_width(block: int) -> None:
    s = torch.cat([torch.tensor([3.0, 3, 2, 2, 2]), torch.linspace(1, 0.5, 60)]).double()
    found = top_singular(built((65, 90), s, 4), 6, tolerance=1e-12, double=True, block=block)
    torch.testing.assert_close(found.s, s[:6], rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(300, 900), (900, 300), (400, 500)])
def test_values_alone(shape: tuple[int, int]) -> None:
    """On noise, whose values crowd at its edge, by the Gram matrix or without."""
    D = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-5
    truth = torch.linalg.svdvals(D.double())[:16]
    found = top_values(D, 16)
    torch.testing.assert_close(found.s, truth, rtol=2e-3, atol=0)
    assert bool(((found.s - truth).abs() <= found.bound).all())
    assert top_values(D[:3], 16).s.shape == (3,)
    assert top_values(torch.zeros(shape), 2).s.tolist() == [0, 0]


def test_the_compiled_product_is_the_plain_one() -> None:
    g = torch.Generator().manual_seed(0)
    for shape in ((1, 1), (3, 5), (131, 40), (300, 257)):
        A, x = torch.randn(shape, generator=g), torch.randn(1, shape[1], generator=g)
        Y, Z = krylov.of_matrix(A)(x)
        torch.testing.assert_close(Y[0], A @ x[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(Z[0], A.T @ (A @ x[0]), rtol=1e-4, atol=1e-3)
