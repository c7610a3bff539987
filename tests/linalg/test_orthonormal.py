"""Orthonormal columns from columns that are nearly so, or not at all."""

import pytest
import torch

from offaxis.linalg.orthonormal import orthonormalised


@pytest.mark.parametrize("defect", [0.0, 1e-9, 1e-3, 0.5])
@pytest.mark.parametrize("shape", [(1, 1), (9, 4), (30, 30)])
def test_nested_spaces_and_signs_are_kept(shape: tuple[int, int], defect: float) -> None:
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(shape, generator=g, dtype=torch.float64)).Q
    mix = defect * torch.rand(shape[1], shape[1], generator=g, dtype=torch.float64).triu()
    found = orthonormalised(Q + Q @ mix)
    torch.testing.assert_close(found, Q, rtol=0, atol=1e-13)


def test_a_deficient_basis_is_completed() -> None:
    X = torch.zeros(6, 3, dtype=torch.float64)
    X[2, 0] = 1
    Q = orthonormalised(X)
    torch.testing.assert_close(Q.T @ Q, torch.eye(3).double(), rtol=0, atol=1e-15)
    assert Q[2, 0] == 1
