"""Masks under the precision gate: independence reads 1, dependence does not."""

import math
from functools import cache

import pytest
import torch
from tests.linalg import llm_like as like

from offaxis.linalg import gates, rounding, visibility

LAWS = ["gauss", "laplace", "row_column_scales"]
SIZES = [3e-6, 1.5e-5, 1.5e-4]
SHORT, LONG = (512, 1024), (2048, 4096)
PRINCIPAL = like.mask(like.PRINCIPAL)
ETA = 1e-3


@pytest.fixture(scope="module")
def anchor() -> tuple[torch.Tensor, torch.Tensor]:
    W = like.weights(0, *SHORT, on_grid=True)
    return W, like.codes(W)


@cache
def large(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    W = like.weights(seed, *LONG, on_grid=True)
    return W, like.codes(W)


def after(W: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
    return rounding.cast(W + D, like.BF16)


def consistency(W: torch.Tensor, X: torch.Tensor, code: torch.Tensor):
    table = like.counted(W, X, code)
    limit = visibility.open_limit(table)
    if limit is None:
        return None
    steps = visibility.open_steps(W.to(like.BF16), X.to(like.BF16), limit)
    return visibility.gate_consistency(table, like.magnitudes(W, code), steps)


def near_one(value: float, log_sd: float, low: float, high: float) -> bool:
    """Within the bounds, or within three standard errors of them."""
    return math.log(low) - 3 * log_sd <= math.log(value) <= math.log(high) + 3 * log_sd


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rms", SIZES)
def test_independent_updates_read_one(anchor, law: str, rms: float) -> None:
    W, code = anchor
    X = after(W, rms * like.independent(law, 1, *SHORT))
    odds = gates.odds_ratio(like.counted(W, X, code), PRINCIPAL)
    assert near_one(*odds, 0.97, 1.03)
    seen = consistency(W, X, code)
    assert seen is not None or rms == SIZES[0]
    assert seen is None or near_one(*seen, 0.97, 1.06)


@pytest.mark.trials
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rms", SIZES)
def test_independent_updates_lie_in_the_bounds(law: str, rms: float) -> None:
    """On average; one update may stray by its own error, and by profiles that agree by chance."""
    odds, seen = [], []
    for seed in range(3):
        W, code = large(seed)
        X = after(W, rms * like.independent(law, 100 + seed, *LONG))
        odds.append(gates.odds_ratio(like.counted(W, X, code), PRINCIPAL))
        seen.append(consistency(W, X, code))
    for found, low, high in ((odds, 0.97, 1.03), (seen, 0.97, 1.06)):
        assert low <= math.prod(each.value for each in found) ** (1 / 3) <= high
        assert all(near_one(*each, low, high) for each in found)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rms", SIZES)
def test_dependent_updates_leave_one(anchor, law: str, rms: float) -> None:
    W, code = anchor
    D = rms * like.independent(law, 2, *SHORT)
    timid = after(W, D * torch.where((code & like.PRINCIPAL) > 0, 0.8, 1.0))
    assert gates.odds_ratio(like.counted(W, timid, code), PRINCIPAL).value < 0.9
    small_first = after(W, D * (W.abs() / W.abs().mean()).clamp(min=1e-3) ** -0.5)
    seen = consistency(W, small_first, code)
    assert seen is not None
    assert seen.value < 0.9


def test_the_strata_expect_what_random_placement_gives() -> None:
    W = like.weights(8, 64, 128, on_grid=True)
    code = like.codes(W, rank=8)
    X = after(W, 1.5e-5 * like.independent("gauss", 3, *W.shape))
    table, g = like.counted(W, X, code), like.generator(4)
    weights = torch.rand(16, generator=g, dtype=torch.float64)
    field = (W.to(like.BF16).view(torch.int16).int() >> 7) & 0xFF
    strata = [(field == e).nonzero() for e in field.unique()]
    drawn, agreed = [], []
    first = W != X
    for _ in range(80):
        placed = torch.zeros_like(first)
        for here in strata:
            count = int(first[here[:, 0], here[:, 1]].sum())
            chosen = here[torch.randperm(len(here), generator=g)[:count]]
            placed[chosen[:, 0], chosen[:, 1]] = True
        drawn.append(float(weights[code[placed].long()].mean()))
        agreed.append(float((placed & first).sum() / first.sum()))
    assert_moments(drawn, gates.stratified_overlap(table, weights))
    assert_moments(agreed, gates.stratified_agreement(table, table))


def assert_moments(drawn: list[float], expected: gates.Expected) -> None:
    values = torch.tensor(drawn, dtype=torch.float64)
    assert abs(float(values.mean()) - expected.mean) < 4 * expected.sd / len(drawn) ** 0.5
    assert 0.65 < float(values.std()) / expected.sd < 1.5


def test_independent_runs_agree_as_the_strata_say(anchor) -> None:
    W, code = anchor
    X, Y = (after(W, 1.5e-5 * like.independent("gauss", seed, *SHORT)) for seed in (5, 6))
    expected = gates.stratified_agreement(like.counted(W, X, code), like.counted(W, Y, code))
    seen = float(((W != X) & (W != Y)).sum() / (W != X).sum())
    # the inner side of powers of two is a second gate inside each binade
    assert abs(seen - expected.mean) < 4 * expected.sd + 0.005


def test_odds_of_one_stratum_are_the_cross_ratio() -> None:
    table = torch.zeros(256, 16, 2, dtype=torch.int64)
    table[120, 1] = torch.tensor([30, 10])
    table[120, 0] = torch.tensor([45, 15])
    odds = gates.odds_ratio(table, PRINCIPAL)
    assert odds.value == pytest.approx(1)
    woolf = math.sqrt(1 / 30 + 1 / 10 + 1 / 45 + 1 / 15)
    assert odds.log_sd == pytest.approx(woolf, rel=1e-12)


@pytest.mark.parametrize("changed", [0, 1])
def test_nothing_is_said_where_nothing_can_be(changed: int) -> None:
    table = torch.zeros(256, 16, 2, dtype=torch.int64)
    table[100:110, :2, changed] = 7
    assert gates.odds_ratio(table, PRINCIPAL) is None
    assert (gates.stratified_overlap(table, PRINCIPAL) is None) == (changed == 0)
    assert (gates.stratified_agreement(table, table) is None) == (changed == 0)
    table[100:110, :2] = 7
    assert gates.odds_ratio(table, torch.ones(16, dtype=torch.float64)) is None
    assert gates.odds_ratio(table, torch.zeros(16, dtype=torch.float64)) is None
    assert gates.odds_ratio(torch.zeros_like(table), PRINCIPAL) is None


@pytest.mark.parametrize("rms", [0.0, 1e-6, 1.5e-5, 1e-3])
@pytest.mark.parametrize("on_grid", [True, False])
@pytest.mark.parametrize("error", [0.0, 0.05])
def test_the_closed_forms_are_sums_over_entries(rms: float, on_grid: bool, error: float) -> None:
    W = like.weights(7, 64, 96, on_grid=on_grid)
    code = like.codes(W, rank=4)
    grid = rounding.grid_of(like.magnitudes(rounding.cast(W, like.BF16), code), on_grid=on_grid)
    whole = rounding.grid(W)
    p, larger = (rounding.gate(whole, r, ETA) for r in (rms, rms * math.exp(error)))
    density = gates.gate_density(grid, rms, ETA, error)
    sd = math.hypot(float((p * (1 - p)).sum().sqrt()) / p.numel(), float((larger - p).mean()))
    assert tuple(density) == pytest.approx((float(p.mean()), sd), rel=1e-10, abs=1e-15)
    overlap = gates.gate_overlap(grid, rms, ETA, PRINCIPAL, error)
    inside = ((code & like.PRINCIPAL) > 0).double()
    if rms == 0:
        assert overlap is None
        return
    mean = float((p * inside).sum() / p.sum())
    spread = float((p * (1 - p) * (inside - mean).square()).sum().sqrt() / p.sum())
    shift = float((larger * inside).sum() / larger.sum()) - mean
    assert tuple(overlap) == pytest.approx((mean, math.hypot(spread, shift)), rel=1e-10)
