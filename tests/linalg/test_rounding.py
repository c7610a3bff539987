"""The bf16 gate against the cast itself, and against Monte Carlo."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg import rounding

BF16 = torch.bfloat16


def weights(seed: int = 0, shape: tuple[int, int] = (64, 96)) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64) * 0.05


def column(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def spacings(W: torch.Tensor, dtype: torch.dtype) -> rounding.Spacings:
    units, counts = rounding.spacing(W.abs().flatten(), dtype).unique(return_counts=True)
    return rounding.Spacings(units, counts.double())


def test_unchanged_is_equality_of_bf16_values_below_half_an_ulp() -> None:
    a, b = rounding.cast(weights(0), BF16), rounding.cast(weights(0) + weights(1) / 100, BF16)
    assert bool((rounding.is_unchanged(a, b, 1e-3) == (a == b)).all())
    assert not bool((rounding.is_unchanged(a, b, 1e-2) == (a == b)).all())


def test_edge_cases_of_the_definition() -> None:
    inf = math.inf
    a = column(0.0, 0.0, 1.0, inf, inf, 1.0)
    b = column(-0.0, 1e-40, 1.0, inf, 1.0, -1.0)
    assert rounding.is_unchanged(a, b, 1e-3).tolist() == [[True, False, True, True, False, False]]


@given(
    st.floats(2.0**-120, 2.0**100),
    st.floats(-1e-2, 1e-2),
    st.sampled_from([1e-3, 4e-3, 2e-2]),
)
def test_the_interval_is_where_the_cast_stays(a: float, move: float, eta: float) -> None:
    start = rounding.cast(column(a), BF16)
    inner, outer = rounding._unchanged_interval(start[0], eta)
    moved = start * (1 + move)
    stays = bool(rounding.is_unchanged(start, rounding.cast(moved, BF16), eta))
    inside = bool(inner < moved[0]) and bool(moved[0] < outer)
    on_the_edge = bool(moved[0] == inner) or bool(moved[0] == outer)
    assert on_the_edge or stays == inside


@pytest.mark.parametrize("rms", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("eta", [1e-3, 1e-2])
@pytest.mark.parametrize("on_grid", [True, False])
def test_gate_agrees_with_drawing(rms: float, eta: float, on_grid: bool) -> None:
    W = rounding.cast(weights(), BF16) if on_grid else weights().float().double()
    grid = rounding.grid(W)
    assert grid.on_grid is on_grid
    expected = rounding.gate(grid, rms, eta)
    g = torch.Generator().manual_seed(1)
    draws = 60
    seen = torch.zeros_like(W)
    before = rounding.cast(W, BF16)
    for _ in range(draws):
        after = W + rms * torch.randn(W.shape, generator=g, dtype=torch.float64)
        seen += (~rounding.is_unchanged(before, rounding.cast(after, BF16), eta)).double()
    spread = float((expected * (1 - expected)).sum().sqrt()) / W.numel() / draws**0.5
    # off the grid the positions inside the cells are one sample of the average
    spread += 0 if on_grid else float(expected.std()) / W.numel() ** 0.5
    assert abs(float(seen.mean()) / draws - float(expected.mean())) <= 4 * spread + 1e-6


def test_gate_at_its_limits() -> None:
    grid = rounding.grid(rounding.cast(weights(), BF16))
    assert float(rounding.gate(grid, 0.0, 1e-3).max()) == 0
    assert float(rounding.gate(grid, 1e3, 1e-3).min()) > 0.999
    assert float(rounding.gate(grid, 1e-12, 1e-3).max()) < 1e-6
    extremes = rounding.grid(column(0.0, 1e-44, 3.38e38, -3.38e38, 2.0**-126))
    assert bool(rounding.gate(extremes, 1e-3, 1e-3).isfinite().all())


def test_powers_of_two_have_a_short_lower_half() -> None:
    grid = rounding.grid(column(1.0, 1.5))
    chance = rounding.gate(grid, 1e-3, 1e-3)[0]
    up, down = math.erfc(2**-8 / 1e-3 / 2**0.5) / 2, math.erfc(2**-9 / 1e-3 / 2**0.5) / 2
    assert float(chance[0]) == pytest.approx(up + down, rel=1e-9)
    assert float(chance[1]) == pytest.approx(2 * up, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("ratio", [1e-2, 0.3, 1.0, 10.0])
def test_rounding_noise_is_what_storage_does(dtype: torch.dtype, ratio: float) -> None:
    """From updates that storage loses whole to updates that it only blurs."""
    W = rounding.cast(weights(3, (256, 256)), dtype)
    rms = ratio * float(torch.finfo(dtype).eps) * 0.05
    after = W + rms * torch.randn(
        W.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    mean, sd = rounding.rounding_noise(spacings(W, dtype), rms)
    seen = float((rounding.cast(after, dtype) - after).norm())
    assert seen == pytest.approx(mean, rel=0.02)
    assert 0 < sd < 0.02 * mean
    zero = spacings(torch.zeros(2, 2, dtype=torch.float64), dtype)
    assert rounding.rounding_noise(zero, 1.0)[0] < 1e-6


@pytest.mark.parametrize("rms", [2e-6, 5e-6, 1.5e-5, 1e-4, 1e-2])
@pytest.mark.parametrize("on_grid", [True, False])
def test_the_true_size_of_an_update_is_told_from_what_bf16_shows(rms: float, on_grid: bool) -> None:
    W = weights(5, (256, 256))
    W = rounding.cast(W, BF16) if on_grid else W.float().double()
    noise = torch.randn(W.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    seen = rounding.cast(W + rms * noise, BF16) - rounding.cast(W, BF16)
    visible = float(seen.norm()) / W.numel() ** 0.5
    error = float(seen.square().norm() / seen.square().sum())
    found = rounding.true_rms(rounding.grid(W), visible)
    assert abs(math.log(found / rms)) <= 0.03 + 4 * error
    assert rounding.true_rms(rounding.grid(W), 0.0) == 0


def test_a_cast_rounds_once() -> None:
    just_above_half = column(1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40), 1 + 2**-8)
    assert rounding.cast(just_above_half, BF16).tolist() == [[1 + 2**-7, -(1 + 2**-7), 1.0]]
    W = weights(7).float()
    assert torch.equal(rounding.cast(W.double(), BF16), W.bfloat16().double())


@pytest.mark.parametrize("on_grid", [True, False])
def test_a_grid_counted_by_magnitude_is_the_grid_of_the_matrix(on_grid: bool) -> None:
    W = weights(8)
    W = rounding.cast(W, BF16) if on_grid else W.float().double()
    whole = rounding.grid(W)
    bits = W.to(BF16).view(torch.int16).long() & 0x7FFF
    code = torch.arange(W.numel()).view_as(W) % 16
    table = (bits * 16 + code).flatten().bincount(minlength=32768 * 16).view(32768, 16)
    counted = rounding.grid_of(table, on_grid=on_grid)
    assert torch.equal(counted.magnitudes, whole.magnitudes)
    assert torch.equal(counted.counts, whole.counts)
    assert torch.equal(counted.codes.sum(0), torch.full((16,), W.numel() / 16).double())
    for rms in (0.0, 1e-6, 1e-4, 1e-1):
        whole_mean = float(rounding.gate(whole, rms, 1e-3).mean())
        by_magnitude = (counted.counts * rounding.passing(counted, rms, 1e-3)).sum() / W.numel()
        assert float(by_magnitude) == pytest.approx(whole_mean, rel=1e-12)
    assert rounding.true_rms(counted, 1e-5) == pytest.approx(rounding.true_rms(whole, 1e-5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_spacings_are_those_of_the_binades(dtype: torch.dtype) -> None:
    W = rounding.cast(weights(9), torch.float32)
    W[0, :4] = column(0.0, 2.0**-130, 2.0**-14, 2.0**100)[0]
    field = (W.float().view(torch.int32) >> 23) & 0xFF
    counted = rounding.spacings_of(field.flatten().bincount(minlength=256), dtype)
    whole = spacings(W, dtype)
    assert torch.equal(counted.units, whole.units)
    assert torch.equal(counted.counts, whole.counts)
