"""Spikes against planted ones, and none where there is only rounding."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.linalg import llm_like as like

from offaxis.linalg import debias, ensembles, passage, restoration, rounding, visibility

MARGIN = 1.02


def noise_edge(D: torch.Tensor, seed: int, draws: int = 3) -> float:
    g = like.generator(seed)
    return MARGIN * max(
        float(torch.linalg.svdvals(ensembles.sign_flip(D, g))[0]) for _ in range(draws)
    )


def corrected(D: torch.Tensor, edge: float) -> tuple[debias.Corrected, torch.Tensor, torch.Tensor]:
    U, s, Vh = torch.linalg.svd(D, full_matrices=False)
    k = int((s > edge).sum())
    U, V = U[:, :k].contiguous(), Vh[:k].T.contiguous()
    square = D.square()
    noise = debias.noise_profile(square.sum(1), square.sum(0), s[:k], U, V)
    found = debias.correct(s, edge, *D.shape, energy=float(square.sum()), profile=noise)
    return found, U, V


class Case(NamedTuple):
    """A law of the dense half of an update, and the widths of two profiles of rows and columns."""

    law: str = "gauss"
    of_weights: float = 0.3
    of_update: float = 0.3


LAWS = ["gauss", "laplace", "row_column_scales"]
STRONG = [Case(law, of_weights=0.6, of_update=0.6) for law in LAWS]
UNLIKE = Case("row_column_scales", of_weights=0.3, of_update=0.6)


def shown_of(case: Case, seed: int, m: int, n: int, fraction: float):
    """Anchor, what a bf16 file shows of a planted update, the update, and its top spike."""
    W = like.weights(seed, m, n, on_grid=True, width=case.of_weights)
    D, top = like.low_rank(seed + 1000, m, n, law=case.law, width=case.of_update)
    rms = 3e-5
    for _ in range(30):
        shown = rounding.cast(W + rms * D, like.BF16) - W
        visible = float(shown.norm() / (rms * D).norm())
        if abs(visible - fraction) < 2e-3:
            break
        rms *= (fraction / visible) ** 3
    return W, shown, rms * D, rms * top


def restored(case: Case, seed: int, m: int, n: int, fraction: float) -> tuple[float, float]:
    """The corrected top spike over the planted one, then restored, all told from the file."""
    W, shown, _, top = shown_of(case, seed, m, n, fraction)
    code = torch.zeros(W.shape, dtype=torch.int32)
    limit = visibility.open_limit(like.counted(W, W + shown, code))
    assert limit is not None
    steps = visibility.open_steps(W.to(like.BF16), (W + shown).to(like.BF16), limit)
    seen_rms = float(shown.square().mean().sqrt())
    seen = visibility.visible_fraction(rounding.grid(W), seen_rms, 0.0, steps)
    found, U, V = corrected(shown, noise_edge(shown, seed, draws=1))
    square = shown.square()
    whole = restoration.restore_spikes(
        found,
        U,
        V,
        W.to(like.BF16),
        (W + shown).to(like.BF16),
        rms=seen_rms / seen.value,
        visible=debias.Profile(square.sum(1), square.sum(0)),
        generator=like.generator(seed),
    )
    return float(found.values[0]) / top, float(whole.values[0]) / top


@pytest.mark.parametrize("case", [*(Case(law) for law in LAWS), *STRONG, UNLIKE])
def test_the_top_spike_behind_the_cast(case: Case) -> None:
    seen, whole = restored(case, 0, 512, 1024, 0.91)
    assert seen < 0.8  # what noise alone explains falls short
    assert whole == pytest.approx(1, abs=0.03)


@pytest.mark.trials
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fraction", [0.91, 0.95, 0.99])
@pytest.mark.parametrize("case", [*(Case(law) for law in LAWS), *STRONG, UNLIKE])
def test_the_top_spike_behind_the_cast_in_larger_matrices(
    case: Case, fraction: float, seed: int
) -> None:
    assert restored(case, seed, 1024, 2048, fraction)[1] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("rms", [4e-5, 1e-4])
def test_the_top_spike_of_an_anchor_off_the_grid(rms: float) -> None:
    W = like.weights(1, 512, 1024, on_grid=False)
    D, top = like.low_rank(2, 512, 1024)
    shown = rounding.cast(W + rms * D, like.BF16) - W
    found, _, _ = corrected(shown, noise_edge(shown, 3))
    assert float(found.values[0]) / rms == pytest.approx(top, rel=0.03)


def pure_noise(kind: str, seed: int, m: int, n: int) -> torch.Tensor:
    W = like.weights(seed, m, n, on_grid=kind.startswith("on grid"))
    drift = like.independent("gauss", seed + 1, m, n)
    if kind == "cast":
        return rounding.cast(W, like.BF16) - W
    if kind == "re-export":
        b = rounding.cast(W, like.BF16)
        return rounding.cast(W * (1 + 1e-6), like.BF16) - b
    if kind == "off grid":
        return rounding.cast(W + 1e-6 * drift, like.BF16) - W
    rms = float(kind.removeprefix("on grid "))
    return rounding.cast(W + rms * drift, like.BF16) - W


KINDS = ["cast", "re-export", "off grid", "on grid 5e-6", "on grid 1.5e-5", "on grid 5e-5"]


def false_spikes(kind: str, seed: int, m: int, n: int) -> int:
    D = pure_noise(kind, seed, m, n)
    s, edge = torch.linalg.svdvals(D), noise_edge(D, seed)
    return debias.correct(s, edge, m, n, energy=float(D.square().sum())).spikes


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_noise_has_at_most_one_spike(kind: str) -> None:
    assert false_spikes(kind, 0, 256, 512) <= 1


@pytest.mark.trials
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_rounding_noise_has_at_most_one_spike_in_larger_matrices(kind: str, seed: int) -> None:
    assert false_spikes(kind, seed, 1024, 2048) <= 1


@given(st.integers(1, 400), st.integers(1, 400), st.floats(1.05, 50), st.floats(1e-30, 1e30))
def test_iid_noise_lifts_and_is_taken_back(m: int, n: int, ratio: float, scale: float) -> None:
    """The forward map of the spiked model, whose edge is the sum of the two roots."""
    threshold = scale * (m * n) ** 0.25
    x = ratio * threshold
    lifted = math.sqrt((x**2 + scale**2 * m) * (x**2 + scale**2 * n)) / x
    edge = scale * (math.sqrt(m) + math.sqrt(n))
    s = torch.tensor([lifted, edge / 2], dtype=torch.float64)
    energy = 4 * lifted**2
    plain = debias.correct(s, edge, m, n, energy=energy)
    assert plain.spikes == 1
    assert float(plain.values[0]) == pytest.approx(x, rel=1e-6)
    flat = debias.Profile(
        torch.full((m,), n * scale**2, dtype=torch.float64),
        torch.full((n,), m * scale**2, dtype=torch.float64),
    )
    profiled = debias.correct(s, edge, m, n, energy=energy, profile=flat)
    assert float(profiled.values[0]) == pytest.approx(x, rel=1e-6)
    assert plain.stable_rank == pytest.approx(1)
    assert plain.energy_share * energy + plain.bulk_energy == pytest.approx(energy)


def test_the_profile_beats_the_edge_under_scales() -> None:
    m, n, top = 400, 800, 6.0
    errors = []
    for seed in range(4):
        g = like.generator(seed)
        E = like.profile(g, m, n).square() * like.normal(g, m, n) / (m**0.5 + n**0.5)
        D = E + like.spikes(g, m, n, torch.tensor([2 * top, top]).double())
        edge = noise_edge(D, seed)
        s = torch.linalg.svdvals(D)
        plain = debias.correct(s, edge, m, n, energy=float(D.square().sum()))
        found, _, _ = corrected(D, edge)
        truth = torch.tensor([2 * top, top]).double()
        assert found.spikes == 2
        errors.append([float((c.values / truth - 1).abs().max()) for c in (plain, found)])
    plain_error, error = torch.tensor(errors).mean(0).tolist()
    assert error < 0.05
    assert error < plain_error


def test_without_spikes_and_without_anything() -> None:
    s = torch.tensor([1.0, 0.5], dtype=torch.float64)
    none = debias.correct(s, 2.0, 2, 3, energy=1.25)
    assert (none.spikes, none.stable_rank, none.energy_share, none.bulk_energy) == (
        0,
        None,
        0,
        1.25,
    )
    zero = debias.correct(torch.zeros(2, dtype=torch.float64), 0.0, 2, 3, energy=0.0)
    assert (zero.spikes, zero.stable_rank, zero.bulk_energy) == (0, None, 0)
    W = torch.ones(2, 3, dtype=like.BF16)
    U, V = (torch.zeros(d, 0, dtype=torch.float64) for d in (2, 3))
    same = restoration.restore_spikes(
        none,
        U,
        V,
        W,
        W,
        rms=1.0,
        visible=debias.Profile(*(torch.zeros(d, dtype=torch.float64) for d in (2, 3))),
        generator=like.generator(0),
    )
    assert same.spikes == 0
    assert same.bulk_energy == 6.0


def test_a_spike_without_noise_is_itself() -> None:
    s = torch.tensor([3.0, 0.0], dtype=torch.float64)
    silent = debias.Profile(torch.zeros(2).double(), torch.zeros(3).double())
    found = debias.correct(s, 0.0, 2, 3, energy=9.0, profile=silent)
    assert found.values.tolist() == [3.0]
    assert found.energy_share == 1
    assert debias.correct(s, 0.0, 2, 3, energy=9.0).values.tolist() == [3.0]


@pytest.mark.parametrize("sd", [0.05, 0.3, 1.0, 4.0])
def test_the_mean_of_what_is_rounded(sd: float) -> None:
    signal = torch.linspace(-3, 3, 13, dtype=torch.float64)
    z = like.normal(like.generator(1), 200_000, 1)
    drawn = (signal + sd * z).round().mean(0)
    found = passage.mean_rounded(signal, torch.ones_like(signal), sd)
    off_ties = (signal - signal.floor() - 0.5).abs() > 1e-9
    assert torch.allclose(found[off_ties], drawn[off_ties], atol=5 * (sd + 0.5) / 200_000**0.5)


@pytest.mark.parametrize("sd", [0.0, 0.05, 0.3, 0.99, 4.0])
def test_the_gain_of_a_faint_signal(sd: float) -> None:
    unit, step = torch.ones(1, dtype=torch.float64), 1e-3
    gain = float(passage.signal_gain(torch.tensor([sd]).double(), unit))
    if sd == 0:
        assert gain == 0
        return
    faint = passage.mean_rounded(torch.tensor([step]).double(), unit, sd)
    assert gain == pytest.approx(float(faint) / step, abs=1e-4)


@given(st.tuples(st.integers(1, 30), st.integers(1, 30)), st.floats(0, 1.5), st.integers(0, 10**6))
def test_strengths_under_a_profile_solve_its_equation(shape, width: float, seed: int) -> None:
    """Plain iteration from 0 rises to the solution, or runs away where there is none."""
    g = torch.Generator().manual_seed(seed)
    rows, cols = (torch.randn(d, generator=g, dtype=torch.float64).mul(width).exp() for d in shape)
    rows, cols = rows / rows.sum(), cols / cols.sum()
    s = torch.linspace(4, 0.5, 8, dtype=torch.float64) * (rows.max() + cols.max()).sqrt()
    found = debias.correct(s, 0.0, *shape, energy=1.0, profile=debias.Profile(rows, cols))
    for z, strength in zip(s, found.values, strict=True):
        A, ran_away, rising = torch.zeros_like(z), False, True
        while rising and not ran_away:
            B = (cols / (z - cols * A)).sum()
            ran_away = bool((z <= cols * A).any() | (z <= rows * B).any())
            rise = (rows / (z - rows * B)).sum() - A
            A, rising = A + rise, float(rise) > 1e-15 * float(A)
        traces = (1 / (z - rows * B)).mean() * (1 / (z - cols * A)).mean()
        assert float(strength) == pytest.approx(0 if ran_away else float(traces.rsqrt()), rel=1e-9)


@pytest.mark.parametrize("kurtosis", [2.0, 3.0, 3.5, 6.0, 9.0, 12.0])
def test_a_law_has_the_kurtosis_asked_for(kurtosis: float) -> None:
    law = passage.law_of(kurtosis)
    square = law.scales.square()
    assert float(law.shares.sum()) == pytest.approx(1)
    assert float(law.shares @ square) == pytest.approx(1)
    assert 3 * float(law.shares @ square.square()) == pytest.approx(max(kurtosis, 3))


@pytest.mark.parametrize("kurtosis", [3.0, 6.0])
def test_tables_hold_what_drawn_updates_show(kurtosis: float) -> None:
    law, g, draws = passage.law_of(kurtosis), like.generator(3), 400_000
    chosen = torch.multinomial(law.shares, draws, replacement=True, generator=g)
    z = law.scales[chosen] * like.normal(g, draws, 1)[:, 0]
    table, means = passage.passage_of(law), passage.rounded_means(law)
    for deviation in (0.25, 0.5, 1.3, 5.0):
        one, shown = torch.tensor([deviation], dtype=torch.float64), (deviation * z).round()
        energy = float(shown.square().mean()) / deviation**2
        assert float(passage.at(table.energy, one)) == pytest.approx(energy, rel=0.03, abs=1e-3)
        gain = float((shown * z).mean()) / deviation
        if kurtosis == 3:  # of a mixture the gain of a signal is not that of the noise
            assert float(passage.at(table.gain, one)) == pytest.approx(gain, rel=0.02, abs=1e-3)
        for signal in (0.0, 0.3, -0.8, 2.5):
            drawn = float((signal + deviation * z).round().mean())
            found = passage.rounded_mean(means, one * 0 + signal, one)
            assert float(found) == pytest.approx(
                drawn, abs=4 * (deviation + 0.5) / draws**0.5 + 4e-3
            )
