"""Products of thin factors against LAPACK's SVD of the product itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg.low_rank import completed, dense, triples

DOUBLE = torch.float64


def factors(m: int, n: int, r: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, r, generator=g, dtype=DOUBLE) for size in (m, n))
    return left, right


@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    r=st.integers(0, 50),
    spread=st.floats(0, 8),
    seed=st.integers(0, 10**6),
)
def test_values_and_vectors_are_those_of_the_product(
    m: int, n: int, r: int, spread: float, seed: int
) -> None:
    left, right = factors(m, n, r, seed)
    left = left * torch.logspace(0, -spread, r, dtype=DOUBLE) if r else left
    D = left @ right.T
    found = triples(left, right)
    s = torch.linalg.svdvals(D)
    t = min(m, n, r)
    assert found.s.shape == (t,)
    assert bool(((found.s - s[:t]).abs() <= found.bound + 40 * 1e-16 * float(s[0])).all())
    assert found.norm == pytest.approx(float(D.norm()), rel=1e-12)
    torch.testing.assert_close((found.left * found.s) @ found.right.T, D, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.row_norms, D.norm(dim=1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.col_norms, D.norm(dim=0), rtol=0, atol=1e-12)
    for X in (found.left, found.right):
        torch.testing.assert_close(X.T @ X, torch.eye(t, dtype=DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close(dense(left, right, DOUBLE), D, rtol=0, atol=1e-12)
    assert torch.equal(dense(left, right, torch.float32), dense(left, right, DOUBLE).float())


def test_cancelling_factors_are_bounded() -> None:
    """The bound knows that two large products have been taken from each other."""
    left, right = factors(60, 50, 3)
    step = 1e-9 * factors(60, 50, 3, seed=1)[0]
    L, R = torch.cat([left + step, left], 1), torch.cat([right, -right], 1)
    exact = torch.linalg.svdvals(((left + step) - left) @ right.T)[:3]
    found = triples(L, R)
    away = (found.s[:3] - exact).abs().max()
    assert 0 < float(away) <= found.bound
    assert found.bound < 1e-3 * float(exact[2])


def test_a_product_larger_than_any_memory_is_decomposed() -> None:
    left, right = factors(300_000, 200_000, 2)  # 480 GB in float64
    found = triples(left, right)
    core = torch.linalg.eigvals(left.T @ left @ (right.T @ right)).real.sqrt().sort().values
    torch.testing.assert_close(found.s, core.flip(0), rtol=1e-12, atol=0)


def test_a_basis_is_completed_without_touching_what_is_there() -> None:
    X = torch.linalg.qr(factors(9, 9, 4)[0]).Q
    assert torch.equal(completed(X, 3), X[:, :3])
    whole = completed(X, 9)
    torch.testing.assert_close(whole[:, :4], X, rtol=0, atol=1e-14)
    torch.testing.assert_close(whole.T @ whole, torch.eye(9, dtype=DOUBLE), rtol=0, atol=1e-14)
