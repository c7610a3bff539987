"""The estimated effective rank against the exact one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg import ranks
from offaxis.linalg.lanczos import top_singular
from offaxis.linalg.quadrature import effective_rank


def noise(m: int, n: int, seed: int, *, spikes: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    D = torch.randn(m, n, generator=g) * torch.randn(m, 1, generator=g).mul(0.4).exp()
    L = torch.randn(m, spikes, generator=g) @ torch.randn(spikes, n, generator=g)
    return D + 0.5 * L


@pytest.mark.parametrize("shape", [(520, 700), (1200, 520), (520, 520)])
@pytest.mark.parametrize("spikes", [0, 8])
def test_the_bound_holds_for_every_seed(shape: tuple[int, int], spikes: int) -> None:
    D = noise(*shape, seed=1, spikes=spikes)
    truth = ranks.effective_rank(torch.linalg.svdvals(D.double()))
    top = top_singular(D, 8) if spikes else None
    for seed in range(6):
        found = effective_rank(D, seed=seed, top=top)
        assert abs(found.value - truth) <= found.bound
        assert found.bound <= 0.2 * truth


def test_a_low_rank_above_the_exact_size() -> None:
    g = torch.Generator().manual_seed(0)
    D = torch.randn(600, 5, generator=g) @ torch.randn(5, 600, generator=g)
    truth = ranks.effective_rank(torch.linalg.svdvals(D.double()))
    found = effective_rank(D, top=top_singular(D, 8))
    assert abs(found.value - truth) <= found.bound + 1e-3


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), st.integers(1, 60), st.integers(0, 99))
def test_small_matrices_are_exact(shape: tuple[int, int], rank: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    D = torch.randn(shape[0], rank, generator=g) @ torch.randn(rank, shape[1], generator=g)
    truth = ranks.effective_rank(torch.linalg.svdvals(D.double()))
    found = effective_rank(D)
    assert abs(found.value - truth) <= found.bound
    assert found.bound <= 1e-2 * truth


def test_a_zero_matrix() -> None:
    assert effective_rank(torch.zeros(600, 600)) == (0, 0)


@pytest.mark.parametrize("exponent", [-120, 120])
def test_size_does_not_matter(exponent: int) -> None:
    D = noise(520, 530, 3)
    scaled = torch.ldexp(D, torch.tensor(exponent))
    assert effective_rank(D).value == pytest.approx(effective_rank(scaled).value, rel=1e-4)
