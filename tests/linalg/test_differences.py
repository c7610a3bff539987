"""Updates are judged entry by entry in exact arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg.differences import RELATIVE_ERROR, difference

FORMATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def pair(
    shape: tuple[int, int], dtype: torch.dtype, scale: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries whose sizes spread over many binades, so that some differences are not exact."""
    g = torch.Generator().manual_seed(seed)
    spread = 1.0 if dtype == torch.float16 else 6.0
    a, b = (
        torch.randn(shape, generator=g, dtype=torch.float64)
        * (spread * torch.randn(shape, generator=g, dtype=torch.float64)).exp()
        * scale
        for _ in range(2)
    )
    return a.to(dtype), b.to(dtype)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    formats=st.tuples(st.sampled_from(FORMATS), st.sampled_from(FORMATS)),
    scale=st.sampled_from([1e-3, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_entries_norm_and_profile(
    shape: tuple[int, int], formats: tuple[torch.dtype, torch.dtype], scale: float, seed: int
) -> None:
    a, b = (pair(shape, dtype, scale, seed)[i] for i, dtype in enumerate(formats))
    found = difference(a, b)
    exact = [
        [Fraction(y) - Fraction(x) for x, y in zip(p, q, strict=True)]
        for p, q in zip(a.tolist(), b.tolist(), strict=True)
    ]
    digits = 24 if found.D.dtype == torch.float32 else 53
    for row, entries in zip(found.D.tolist(), exact, strict=True):
        for value, true in zip(row, entries, strict=True):
            assert abs(Fraction(value) - true) <= abs(true) * Fraction(1, 2**digits)
    rows = [float(sum(d * d for d in row)) for row in exact]
    cols = [float(sum(d * d for d in column)) for column in zip(*exact, strict=True)]
    assert found.norm == pytest.approx(math.sqrt(sum(rows)), rel=RELATIVE_ERROR)
    assert found.row_norms.square().tolist() == pytest.approx(rows, rel=1e-14)
    assert found.col_norms.square().tolist() == pytest.approx(cols, rel=1e-14)
    true_D = torch.tensor([[float(d) for d in row] for row in exact], dtype=torch.float64)
    lost = float((true_D - found.D.double()).norm())
    assert found.rounding <= 2.0**-24 * found.norm
    assert lost <= found.rounding * (1 + 1e-6) + 2.0**-52 * found.norm


@pytest.mark.parametrize("shape", [(1, 1), (5, 3000), (700, 2)])
def test_compiled_and_plain_loops_agree(shape: tuple[int, int]) -> None:
    a, b = pair(shape, torch.bfloat16, 1.0, 0)
    ours, plain = difference(a, b), difference(a, b, loops=None)
    assert torch.equal(ours.D, plain.D)
    assert ours.norm == pytest.approx(plain.norm, rel=RELATIVE_ERROR)
    assert ours.rounding == pytest.approx(plain.rounding, rel=1e-12)
    torch.testing.assert_close(ours.row_norms, plain.row_norms, rtol=1e-13, atol=0)
    torch.testing.assert_close(ours.col_norms, plain.col_norms, rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [3e38, 1e-39])
def test_the_ends_of_bfloat16(size: float) -> None:
    a = torch.tensor([[size, -size]], dtype=torch.float64).bfloat16()
    found = difference(a, -a)
    assert torch.equal(found.D.double(), -2 * a.double())
    assert found.norm == pytest.approx(math.sqrt(2) * 2 * float(a[0, 0].double()))


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_energies_of_float64_do_not_overflow(size: float) -> None:
    a = torch.full((3, 4), size, dtype=torch.float64)
    assert difference(a, -a).norm == pytest.approx(size * 2 * math.sqrt(12))


def test_equal_matrices_differ_by_nothing() -> None:
    a, _ = pair((6, 8), torch.bfloat16, 1.0, 0)
    found = difference(a, a.clone())
    assert found.norm == found.rounding == 0
    assert not bool(found.D.any())
