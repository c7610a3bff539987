"""Nulls are calibrated: chance lies on them, and what is not chance leaves them."""

import math
from collections.abc import Callable

import pytest
import torch

from offaxis.diagnostics.base import Tier
from offaxis.engine import Evaluated, generator_for, mean_and_sd
from offaxis.linalg import rounding
from offaxis.linalg.ensembles import permutation
from tests.updates import evaluated

SHAPE, LARGE = (96, 160), (320, 640)
Update = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(seed: int, *, on_grid: bool) -> torch.Tensor:
    """Gaussian weights with log-normal scales of rows and columns, as real matrices have."""
    g = generator(seed)
    rows, cols = (torch.randn(n, generator=g, dtype=torch.float64).mul(0.3).exp() for n in SHAPE)
    W = 0.02 * torch.outer(rows, cols) * torch.randn(SHAPE, generator=g, dtype=torch.float64)
    return rounding.cast(W, torch.bfloat16 if on_grid else torch.float32)


def z(item: Evaluated, quantity: str) -> float:
    null = item.primary(quantity)
    assert null is not None
    return (item.readings[quantity].value - null.mean) / null.sd


def gaussian(W: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    return torch.randn(W.shape, generator=g, dtype=torch.float64)


def on_small_weights(W: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    return gaussian(W, g) * (W.abs() / W.abs().mean()).clamp(min=1e-3) ** -0.5


@pytest.mark.parametrize("on_grid", [True, False])
@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rms", [5e-6, 2e-5, 1e-4])
def test_an_independent_update_lies_on_the_rounding_gate(
    on_grid: bool, storage: torch.dtype, rms: float
) -> None:
    """Whatever the anchor is made of, and whether the file shows the update or only its cast."""
    scores: dict[str, list[float]] = {}
    for seed in range(12):
        W0 = weights(seed, on_grid=on_grid)
        W1 = W0 + rms * gaussian(W0, generator(1000 + seed))
        found = evaluated(W0, rounding.cast(W1, storage), "sparsity", "masks", storage=storage)
        for name, quantity in (
            ("sparsity", "sparsity"),
            ("masks", "principal_overlap"),
            ("masks", "low_magnitude_overlap"),
        ):
            scores.setdefault(quantity, []).append(z(found[name], quantity))
            primary = found[name].primary(quantity)
            assert primary.null == ("gate_half_ulp" if on_grid else "gate_cell_average")
    for quantity, sample in scores.items():
        mean, sd = mean_and_sd(sample)
        assert abs(mean) < 4 / math.sqrt(len(sample)), (quantity, sample)
        # a null sized by the data itself spreads less than one drawn apart from it
        assert (0.4 if storage == torch.float32 else 0.05) < sd < 2.0, (quantity, sample)


def test_an_update_that_prefers_small_weights_leaves_the_gate() -> None:
    W0 = weights(0, on_grid=True)
    D = on_small_weights(W0, generator(1))
    found = evaluated(W0, W0 + 1e-4 * D / D.norm() * D.numel() ** 0.5, "masks")
    assert z(found["masks"], "low_magnitude_overlap") > 5


def false_spikes(seed: int) -> tuple[float, float]:
    """Spikes that pure rounding noise shows, and the same under the permutation null's edge."""
    W = weights(seed, on_grid=False)
    noise = rounding.cast(W, torch.bfloat16) - W
    found = evaluated(W, W + noise, "rank", draws=3)["rank"]
    s = torch.linalg.svdvals(noise)
    edge = max(float(torch.linalg.svdvals(permutation(noise, generator(i)))[0]) for i in range(3))
    return found.readings["spikes"].value, float((s > 1.02 * edge).sum())


def test_rounding_noise_shows_no_spikes_above_the_sign_flip_edge() -> None:
    pairs = [false_spikes(seed) for seed in range(6)]
    assert max(signs for signs, _ in pairs) <= 1
    assert min(permuted for _, permuted in pairs) > 2  # the edge in common use does not hold


@pytest.mark.trials
@pytest.mark.parametrize("kind", ["cast", "drift 1e-6", "drift 1.5e-5"])
@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_rounding_noise_of_scaled_weights_shows_at_most_one_spike(kind: str, tier: Tier) -> None:
    """Weights with strong scales of rows and columns, above the size at which tiers are one."""
    found = []
    for seed in range(24):
        g = generator(seed)
        rows, cols = (
            torch.randn(d, generator=g, dtype=torch.float64).mul(0.6).exp() for d in LARGE
        )
        W = 0.02 * torch.outer(rows, cols) * torch.randn(LARGE, generator=g, dtype=torch.float64)
        if kind == "cast":
            W0, W1 = W, rounding.cast(W, torch.bfloat16)
        else:
            rms = float(kind.removeprefix("drift "))
            W0 = rounding.cast(W, torch.bfloat16)
            W1 = rounding.cast(W0 + rms * gaussian(W0, g), torch.bfloat16)
        item = evaluated(W0, W1, "rank", draws=3, tier=tier)["rank"]
        found.append(item.readings["spikes"].value)
    assert max(found) <= 1
    assert sum(found) <= len(found) / 3


@pytest.mark.trials
def test_false_spikes_stay_rare_in_the_long_run() -> None:
    found = [false_spikes(seed)[0] for seed in range(200)]
    assert max(found) <= 1
    # the noise and the draws of its edge are exchangeable: it leads one time in four at most
    assert sum(found) <= len(found) / 4


@pytest.mark.trials
@pytest.mark.parametrize("on_grid", [True, False])
def test_the_gate_is_calibrated_in_the_long_run(on_grid: bool) -> None:
    sample = []
    for seed in range(400):
        W0 = weights(seed, on_grid=on_grid)
        W1 = W0 + 5e-5 * gaussian(W0, generator(5000 + seed))
        sample.append(z(evaluated(W0, W1, "masks")["masks"], "low_magnitude_overlap"))
    mean, sd = mean_and_sd(sample)
    assert abs(mean) < 4 / math.sqrt(len(sample))
    assert sd == pytest.approx(1, abs=0.15)


def test_sign_flips_keep_a_structureless_update_on_its_null() -> None:
    W0 = weights(3, on_grid=False)
    found = evaluated(W0, W0 + 1e-3 * gaussian(W0, generator(4)), "rank", "rotation", draws=8)
    assert abs(z(found["rank"], "stable_rank")) < 5
    assert abs(z(found["rotation"], "right_mean")) < 5
    assert found["rank"].readings["spikes"].value == 0


def test_draws_depend_on_their_key_alone() -> None:
    one, same, other = (torch.randn(4, generator=generator_for(*key)) for key in ("ab", "ab", "ba"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_mean_and_sd() -> None:
    assert mean_and_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_sd([1.0]) == (1.0, None)
    assert mean_and_sd([1.0, None]) == (None, None)
    assert mean_and_sd([]) == (None, None)


def test_a_permutation_keeps_the_law_of_the_entries() -> None:
    """Entries with a common sign keep it, whatever signs other nulls have drawn before."""
    g = generator(0)
    W0 = torch.randn(64, 96, generator=g)
    found = evaluated(W0, W0 + 0.01 + 0.001 * torch.randn(64, 96, generator=g), "norm", "rank")
    nulls = {null.null: null.mean for null in found["norm"].nulls["spectral_norm"]}
    assert nulls["permutation"] == pytest.approx(0.01 * (64 * 96) ** 0.5, rel=0.01)
    assert nulls["sign_flip"] < nulls["permutation"] / 3


def test_a_draw_does_not_depend_on_what_else_is_read() -> None:
    W0 = weights(1, on_grid=False)
    W1 = W0 + 1e-3 * gaussian(W0, generator(2))
    alone, beside = (
        evaluated(W0, W1, *names)["spectral_shift"]
        for names in (["spectral_shift"], ["spectral_shift", "rank", "norm"])
    )
    assert alone.primary("spectral_shift") == beside.primary("spectral_shift")


@pytest.mark.parametrize("shape", [(96, 160), (300, 340)])
def test_a_draw_has_as_many_values_as_are_read(shape: tuple[int, int]) -> None:
    """By whichever engine: the null of a share of 16 values is that of 16 values."""
    g = generator(6)
    W0 = torch.randn(shape, generator=g, dtype=torch.float64)
    D = 1e-3 * torch.randn(shape, generator=g, dtype=torch.float64)
    found = evaluated(W0, W0 + D, "rank", "tail", draws=3)
    s = torch.linalg.svdvals(D)
    share = float(s[:16].square().sum() / s.square().sum())
    for name in ("sign_flip", "permutation"):
        nulls = {n.null: n for n in found["rank"].nulls["top16_energy"]}
        assert nulls[name].mean == pytest.approx(share, rel=0.03)
        hill = {n.null: n for n in found["tail"].nulls["hill"]}
        assert hill[name].mean is not None
