"""Subspaces, coordinate masks and stochastic rounding against what they are defined to be."""

import pytest
import torch

from offaxis.errors import NumericsError
from offaxis.linalg.confinement import core_of, leading_subspace, projected, random_subspace
from offaxis.linalg.coordinates import (
    largest_entries,
    low_magnitude_entries,
    principal_entries,
    random_entries,
    visibly_changed,
)
from offaxis.linalg.stochastic_rounding import rounded_stochastically


def keyed(seed):
    return torch.Generator().manual_seed(seed)


def test_a_projection_keeps_what_is_inside_and_takes_the_rest():
    U, V = random_subspace(12, 9, 3, keyed(0))
    M = torch.randn(3, 3, generator=keyed(1))
    D = torch.randn(12, 9, generator=keyed(2))
    torch.testing.assert_close(projected(U @ M @ V.T, V, U), U @ M @ V.T)
    once = projected(D, V, U)
    torch.testing.assert_close(projected(once, V, U), once)
    torch.testing.assert_close(projected(D, V), D @ V @ V.T)
    torch.testing.assert_close(core_of(D, U, V), U.T @ D @ V)
    assert float((U.T @ (D - once) @ V).abs().max()) < 1e-5


@pytest.mark.parametrize("D", [torch.zeros(4, 5), torch.ones(4, 5), torch.eye(4, 5)])
def test_directions_that_are_not_there_are_refused(D):
    rank = {0: 1, 20: 2, 4: 5}[int(D.sum())]
    with pytest.raises(NumericsError, match="layer 3"):
        leading_subspace(D.double(), rank, "layer 3")


def test_random_subspaces_are_uniform():
    """Of a unit vector, the share inside is K/n on average, whatever the vector."""
    shares = [random_subspace(10, 8, 2, keyed(s)).V.square().sum(1) for s in range(400)]
    mean = torch.stack(shares).mean(0)
    assert float((mean - 2 / 8).abs().max()) < 0.04
    assert torch.equal(random_subspace(10, 8, 2, keyed(5)).U, random_subspace(10, 8, 2, keyed(5)).U)


def test_masks_hold_exactly_as_many_entries_as_asked_for_ties_included():
    score = torch.tensor([[1.0, 1.0, 2.0], [1.0, 0.0, 1.0]])
    for count in range(7):
        assert int(largest_entries(score, count).sum()) == count
    assert largest_entries(score, 3).tolist() == [[True, True, True], [False, False, False]]
    assert int(random_entries(5, 7, 11, keyed(0)).sum()) == 11


def test_principal_entries_are_those_of_the_truncated_svd():
    W = torch.randn(20, 15, generator=keyed(3))
    U, s, Vh = torch.linalg.svd(W.double())
    part = (U[:, :4] * s[:4] @ Vh[:4]).abs()
    mask = principal_entries(W, 100, 4)
    assert float(part[mask].min()) > float(part[~mask].max())
    low = low_magnitude_entries(W, 100)
    assert float(W[low].abs().max()) < float(W[~low].abs().min())


def test_an_update_is_visible_where_bfloat16_changes():
    start = torch.tensor([[1.0, 1.0, 0.0, -0.0]])
    end = torch.tensor([[1.0 + 2**-9, 1.0 + 2**-7, 1e-30, 0.0]])
    assert visibly_changed(start, end).tolist() == [[False, True, True, False]]
    assert visibly_changed(start.double(), end.double()).tolist() == [[False, True, True, False]]


def test_stochastic_rounding_is_unbiased_and_takes_neighbours_only():
    ulp = 2.0**-7
    for share in (0.01, 0.25, 0.5, 0.9):
        for sign in (1.0, -1.0):
            x = torch.full((200_000,), sign * (1 + share * ulp))
            y = rounded_stochastically(x, keyed(0)).double()
            assert set(y.tolist()) == {sign, sign * (1 + ulp)}
            up = float((y.abs() > 1).double().mean())
            assert abs(up - share) < 5 * (share * (1 - share) / len(x)) ** 0.5


def test_stochastic_rounding_leaves_alone_what_fits_and_repeats_by_its_key():
    fits = torch.tensor([0.0, -0.0, 1.5, -3.0, 2.0**-133, float("inf"), -float("inf")])
    for seed in range(20):
        y = rounded_stochastically(fits, keyed(seed)).float()
        assert torch.equal(y.view(torch.int32), fits.view(torch.int32))
    assert bool(rounded_stochastically(torch.tensor([float("nan")]), keyed(0)).isnan().all())
    x = torch.randn(1000, generator=keyed(1))
    assert torch.equal(rounded_stochastically(x, keyed(2)), rounded_stochastically(x, keyed(2)))
    assert not torch.equal(rounded_stochastically(x, keyed(2)), rounded_stochastically(x, keyed(3)))
