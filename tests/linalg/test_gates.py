"""Masks under the precision gate: independence reads 1, dependence does not."""

import math
from functools import cache

import pytest
import torch
from tests.linalg import llm_like as like

from offaxis.linalg import gates, lines, rounding, visibility

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
    assert near_one(*odds_of(W, X, code), 0.97, 1.03)
    seen = consistency(W, X, code)
    assert seen is not None or rms == SIZES[0]
    assert seen is None or near_one(*seen, 0.97, 1.06)


@pytest.mark.trials
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rms", SIZES)
def test_independent_updates_lie_in_the_bounds(law: str, rms: float) -> None:
    for seed in range(3):
        W, code = large(seed)
        X = after(W, rms * like.independent(law, 100 + seed, *LONG))
        odds, seen = odds_of(W, X, code), consistency(W, X, code)
        assert 0.97 <= odds.value <= 1.03
        assert seen is None or 0.97 <= seen.value <= 1.06


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rms", SIZES)
def test_dependent_updates_leave_one(anchor, law: str, rms: float) -> None:
    W, code = anchor
    D = rms * like.independent(law, 2, *SHORT)
    timid = after(W, D * torch.where((code & like.PRINCIPAL) > 0, 0.8, 1.0))
    assert odds_of(W, timid, code).value < 0.9
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
    drawn = []
    first = W != X
    for _ in range(80):
        placed = torch.zeros_like(first)
        for here in strata:
            count = int(first[here[:, 0], here[:, 1]].sum())
            chosen = here[torch.randperm(len(here), generator=g)[:count]]
            placed[chosen[:, 0], chosen[:, 1]] = True
        drawn.append(float(weights[code[placed].long()].mean()))
    assert_moments(drawn, gates.stratified_overlap(table, weights))


def assert_moments(drawn: list[float], expected: gates.Expected) -> None:
    values = torch.tensor(drawn, dtype=torch.float64)
    assert abs(float(values.mean()) - expected.mean) < 4 * expected.sd / len(drawn) ** 0.5
    assert 0.65 < float(values.std()) / expected.sd < 1.5


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


def lines_of(W: torch.Tensor, X: torch.Tensor, code: torch.Tensor, **kernel: str) -> lines.Chance:
    table = like.counted(W, X, code)
    held = W.to(like.BF16), X.to(like.BF16), code.to(torch.uint8)
    return lines.chance_of_lines(*held, table, PRINCIPAL, eta=ETA, **kernel)


def odds_of(W: torch.Tensor, X: torch.Tensor, code: torch.Tensor) -> gates.OddsRatio:
    return gates.odds_ratio(like.counted(W, X, code), PRINCIPAL, lines_of(W, X, code))


def test_compiled_scores_are_the_plain_ones(anchor) -> None:
    W, code = (X[:200, :333].contiguous() for X in anchor)
    X = after(W, 1.5e-5 * like.independent("row_column_scales", 9, 200, 333))
    quick, plain = (lines_of(W, X, code, kernel=kernel) for kernel in ("compiled", "plain"))
    assert quick == pytest.approx(plain, rel=1e-4)
    wide = lines.chance_of_lines(W, X, code.byte(), like.counted(W, X, code), PRINCIPAL, eta=ETA)
    assert wide == pytest.approx(quick, rel=1e-6)


def test_rows_that_agree_by_chance_are_told_from_entries() -> None:
    """The spread over draws is the standard error; without rows and columns it is twice that."""
    scores, plain = [], []
    for seed in range(4):
        W = like.weights(seed, 256, 512, on_grid=True)
        code = like.codes(W)
        for draw in range(6):
            D = 1e-4 * like.independent("row_column_scales", 100 + 10 * seed + draw, 256, 512)
            X = after(W, D)
            odds, alone = odds_of(W, X, code), gates.odds_ratio(like.counted(W, X, code), PRINCIPAL)
            scores.append(math.log(odds.value) / odds.log_sd)
            plain.append(math.log(alone.value) / alone.log_sd)
    spread, wider = (math.sqrt(sum(z * z for z in found) / 24) for found in (scores, plain))
    assert 0.6 < spread < 1.5
    assert wider > 1.7


def test_nothing_changed_on_any_line(anchor) -> None:
    W, code = anchor
    assert lines_of(W, W, code) == (0, 0)
