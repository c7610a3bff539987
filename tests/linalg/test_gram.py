"""The Gram matrix against products taken whole in float64."""

import pytest
import torch

from offaxis.linalg.gram import blocks, gram

FORMATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
EPS = torch.finfo(torch.float64).eps


def random(shape: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 1100), (1100, 40), (600, 610)])
def test_every_format_and_shape(shape: tuple[int, int], dtype: torch.dtype) -> None:
    W = random(shape, dtype)
    A = W.double() if shape[0] <= shape[1] else W.double().T
    G, exponent = gram(W)
    assert exponent == 0
    assert G.dtype == torch.float64
    size = A.norm(dim=1)
    error = (G - A @ A.T).triu().abs()
    assert bool((error <= 40 * EPS * torch.outer(size, size)).all())


def test_a_view_of_a_larger_tensor() -> None:
    stack = random((3, 40 * 50), torch.bfloat16).view(3, 40, 50)
    for W in (stack[1], stack[1].T, stack[1][5:20, ::2]):
        torch.testing.assert_close(
            gram(W).G.triu(),
            gram(W.clone(memory_format=torch.contiguous_format)).G.triu(),
            rtol=1e-14,
            atol=1e-13,
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("largest", [3e38, 1e-39])
def test_nothing_overflows_or_is_lost(dtype: torch.dtype, largest: float) -> None:
    W = (random((5, 8), torch.float64) / 4 * largest).to(dtype)
    A = W.double() / largest
    torch.testing.assert_close(
        (gram(W).G / largest / largest).triu(), (A @ A.T).triu(), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("shift", [1000, -1000, -1060])
def test_extreme_float64_is_scaled_exactly(shift: int) -> None:
    W = random((4, 6), torch.bfloat16).double()
    half = 2.0 ** (shift // 2)
    G, exponent = gram(W * half * half)
    expected = gram(W).G
    assert torch.equal(G * 2.0 ** (exponent - shift) * 2.0 ** (exponent - shift), expected)


def test_blocks_cover_the_matrix() -> None:
    W = random((1100, 3), torch.float32)
    together = torch.cat([block for _, block in blocks(W)], 1)
    assert torch.equal(together, W.double().T)
    assert [part.start for part, _ in blocks(W)] == [0, 512, 1024]


def test_zero_matrix() -> None:
    G, exponent = gram(torch.zeros(3, 5, dtype=torch.float64))
    assert exponent == 0
    assert not bool(G.any())
