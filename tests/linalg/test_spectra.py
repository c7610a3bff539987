"""Decompositions of matrices built from a prescribed spectrum."""

import pytest
import torch

from offaxis.linalg.angles import principal_angles
from offaxis.linalg.spectra import exact_svd, gram_svd

SHAPES = [(12, 30), (30, 12), (16, 16), (1, 7), (7, 1), (1, 1)]


def built(shape: tuple[int, int], s: torch.Tensor, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    p = s.numel()
    U = torch.linalg.qr(torch.randn(shape[0], p, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(shape[1], p, generator=g, dtype=torch.float64)).Q
    return U * s @ V.T


@pytest.mark.parametrize("shape", SHAPES)
def test_the_spectrum_is_recovered(shape: tuple[int, int]) -> None:
    s = torch.logspace(0, -3, min(shape), dtype=torch.float64)
    W = built(shape, s)
    torch.testing.assert_close(exact_svd(W).s, s, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gram_svd(W).s, s, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 100])
def test_gram_vectors_span_the_same_subspaces(shape: tuple[int, int], rank: int) -> None:
    p = min(shape)
    s = torch.linspace(2, 1, p, dtype=torch.float64)
    s[rank:] = 0
    W = built(shape, s, seed=1)
    exact, gram = exact_svd(W), gram_svd(W)
    k = min(rank, p)
    for one, other in ((exact.U, gram.U), (exact.Vh.T, gram.Vh.T)):
        assert float(principal_angles(one[:, :k], other[:, :k]).max()) < 1e-7


def test_zero_matrix() -> None:
    factors = gram_svd(torch.zeros(3, 5, dtype=torch.float64))
    assert factors.s.tolist() == [0, 0, 0]
    assert bool(factors.Vh.isfinite().all())
