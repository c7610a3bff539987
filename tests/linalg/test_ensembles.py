"""Random updates keep what they promise to keep."""

from itertools import pairwise, permutations

import pytest
import torch

from offaxis.linalg.ensembles import (
    factor_walk,
    flip_signs_,
    permutation,
    permute_,
    random_factors,
    random_walk,
    sign_flip,
)
from offaxis.linalg.subspaces import similarity


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def update() -> torch.Tensor:
    return torch.randn(20, 30, generator=generator(9), dtype=torch.float64)


def test_sign_flip_keeps_magnitudes_in_place() -> None:
    D = update()
    flipped = sign_flip(D, generator())
    assert torch.equal(flipped.abs(), D.abs())
    share = float((flipped == D).double().mean())
    assert 0.4 < share < 0.6


def test_permutation_keeps_the_law() -> None:
    D = update()
    permuted = permutation(D, generator())
    assert torch.equal(permuted.flatten().sort().values, D.flatten().sort().values)
    assert float((permuted == D).double().mean()) < 0.05


@pytest.mark.parametrize("ensemble", [sign_flip, permutation])
def test_draws_depend_on_the_generator_alone(ensemble) -> None:
    assert torch.equal(ensemble(update(), generator(3)), ensemble(update(), generator(3)))
    assert not torch.equal(ensemble(update(), generator(3)), ensemble(update(), generator(4)))


def test_the_walk_has_the_steps_and_the_profile_asked_for() -> None:
    rows = torch.linspace(1, 2, 200, dtype=torch.float64)
    cols = torch.linspace(1, 3, 100, dtype=torch.float64)
    walk = random_walk(rows, cols, [1.0, 3.0, 0.0, 4.0], generator())
    places = [torch.zeros(200, 100), *(place.clone() for place in walk)]
    steps = [4 * (after - before) for before, after in pairwise(places)]
    assert [float(step.norm()) for step in steps] == pytest.approx([1, 3, 0, 4], rel=0.02)
    profile = steps[3].square().mean(1).sqrt()
    assert float(profile[150:].mean() / profile[:50].mean()) == pytest.approx(
        1.875 / 1.125, rel=0.1
    )


def test_random_factors_have_the_norm_and_no_preferred_direction() -> None:
    """The energy in a block of two subspaces is what their dimensions say, in the mean."""
    shares = []
    for seed in range(400):
        left, right = random_factors((20, 12), 3, 0.7, generator(seed))
        assert left.shape == (20, 3)
        assert right.shape == (12, 3)
        D = left @ right.T
        assert float(D.norm()) == pytest.approx(0.7, rel=1e-12)
        shares.append(D[:5, :4].square().sum() / D.square().sum())
    share = torch.stack(shares)
    assert abs(float(share.mean()) - 5 * 4 / (20 * 12)) < 4 * float(share.std()) / 20
    again = random_factors((20, 12), 3, 0.7, generator(399))
    assert torch.equal(again[0], left)
    assert torch.equal(again[1], right)


def test_rows_of_a_walk_of_factors_keep_their_steps_and_no_direction() -> None:
    left = [torch.rand(20, generator=generator(i), dtype=torch.float64) for i in range(3)]
    right = [torch.rand(9, generator=generator(i), dtype=torch.float64) for i in range(3)]
    right[1] = torch.zeros(9, dtype=torch.float64)
    moments = []
    for seed in range(200):
        walk = zip(*factor_walk(left, right, 3, generator(seed)), strict=True)
        for scales, held in zip((left, right), walk, strict=True):
            steps = [held[0], *(after - before for before, after in pairwise(held))]
            for scale, step in zip(scales, steps, strict=True):
                torch.testing.assert_close(step.square().mean(1).sqrt(), scale)
            moments.append(held[0].T @ held[0] / held[0].square().sum())
    mean = torch.stack(moments).mean(0)
    assert float((mean - torch.eye(3) / 3).abs().max()) < 0.02
    signs = next(factor_walk(left, right, 1, generator()))[0][:, 0] / left[0]
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    assert not torch.equal(signs, signs.abs())


def test_similarity_of_planted_subspaces() -> None:
    eye = torch.eye(10, dtype=torch.float64)
    assert similarity(eye[:, :4], eye[:, :4]) == 1
    assert similarity(eye[:, :4], eye[:, 4:8]) == 0
    assert similarity(eye[:, :4], eye[:, 2:6]) == 0.5
    g = generator(5)
    random = [
        torch.linalg.qr(torch.randn(100, 8, generator=g, dtype=torch.float64)).Q for _ in range(40)
    ]
    mean = sum(similarity(a, b) for a, b in zip(random[::2], random[1::2], strict=True)) / 20
    assert mean == pytest.approx(8 / 100, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_flip_in_place(dtype: torch.dtype) -> None:
    D = torch.randn(300, 333, generator=generator()).to(dtype)
    flipped = D.clone()
    flip_signs_(flipped, 2**64 - 1)
    assert torch.equal(flipped.abs(), D.abs())
    signs = (flipped * D).sign()
    # four standard deviations: of the mean sign, of neighbours' products, of a column's
    assert abs(float(signs.mean())) < 4 / D.numel() ** 0.5
    assert abs(float((signs[:, 1:] * signs[:, :-1]).mean())) < 4 / D.numel() ** 0.5
    assert float(signs.mean(0).square().mean()) == pytest.approx(1 / 300, rel=4 * (2 / 333) ** 0.5)


def test_flips_in_turn_are_independent() -> None:
    D = torch.ones(300, 333)
    flip_signs_(D, 1)
    first = D.clone()
    flip_signs_(D, 2)
    assert abs(float((D * first).mean())) < 4 / D.numel() ** 0.5
    assert abs(float(D.mean())) < 4 / D.numel() ** 0.5
    flip_signs_(D, 2)
    assert torch.equal(D, first)


@pytest.mark.parametrize("shape", [(1, 1), (1, 65), (70, 1), (300, 333)])
def test_entries_are_permuted_in_place(shape: tuple[int, int]) -> None:
    D = torch.arange(shape[0] * shape[1], dtype=torch.float64).view(shape)
    permuted = D.clone()
    permute_(permuted, 7)
    assert torch.equal(permuted.flatten().sort().values, D.flatten())
    if D.numel() > 1000:
        pair = torch.stack([permuted.flatten(), D.flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / D.numel() ** 0.5


@pytest.mark.parametrize("ensemble", [flip_signs_, permute_])
def test_draws_in_place_depend_on_the_seed_alone(ensemble) -> None:
    draws = [torch.arange(1.0, 1001).view(20, 50) for _ in range(3)]
    wide = torch.arange(1.0, 1001, dtype=torch.float64).view(50, 20)
    for D, seed in zip([*draws, wide], [3, 3, 4, 3], strict=True):
        ensemble(D, seed)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0].double().flatten(), wide.flatten())


def test_signs_are_the_same_on_every_machine() -> None:
    D = torch.ones(1, 8)
    flip_signs_(D, 0)
    assert D.int().tolist() == [[1, -1, 1, 1, -1, -1, 1, 1]]


@pytest.mark.parametrize("ensemble", [flip_signs_, permute_])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 4097, 70_001])
def test_compiled_draws_are_the_plain_ones(ensemble, dtype: torch.dtype, size: int) -> None:
    plain, quick = (torch.arange(size).to(dtype).view(1, size) for _ in range(2))
    ensemble(plain, 2**63 + 5, kernel="plain")
    ensemble(quick, 2**63 + 5)
    assert torch.equal(plain, quick)
    assert torch.equal(plain.signbit(), quick.signbit())


def test_every_order_is_as_likely() -> None:
    seen = torch.zeros(24)
    orders = {order: i for i, order in enumerate(permutations(range(4)))}
    for seed in range(4800):
        D = torch.arange(4.0).view(2, 2)
        permute_(D, seed)
        seen[orders[tuple(D.int().flatten().tolist())]] += 1
    assert float(((seen - 200).square() / 200).sum()) < 52  # 0.05 % of chi squares of 23 exceed it
