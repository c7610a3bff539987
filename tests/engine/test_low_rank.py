"""Readings of updates that are products of thin factors, without the product's own spectrum."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.judge import judge
from tests.updates import diagnostics
from tests.updates import evaluated as dense_evaluated

from offaxis.diagnostics.base import NullReading, Reading, Tier
from offaxis.engine import (
    Draws,
    Evaluated,
    Stored,
    draws,
    evaluate,
    exact,
    fast,
    leading_of_step,
    prepare,
    request_for,
)
from offaxis.engine.seeds import generator_for
from offaxis.linalg.ensembles import random_factors

DOUBLE = torch.float64
OF_SPECTRUM = {
    "norm": ("frobenius_norm", "relative_norm", "spectral_norm"),
    "rank": ("stable_rank", "effective_rank", "top16_energy"),
}


DENSE = (
    (exact, "of_delta"),
    (exact, "values_of"),
    (exact, "top_singular"),
    (fast, "top_singular"),
    (fast, "top_values"),
    (fast, "effective_rank"),
)
"""Where the product itself would be decomposed."""


def planted(
    shape: tuple[int, int], r: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    W = (0.05 * torch.randn(shape, generator=g)).to(dtype)
    left, right = (0.02 * torch.randn(n, r, generator=g, dtype=DOUBLE) for n in shape)
    return W, left, right


def evaluated(
    W: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    *names: str,
    tier: Tier = "exact",
    draws: int = 2,
    edge: int = 2,
    **overrides: dict[str, Any],
) -> dict[str, Evaluated]:
    chosen = {name: item for name, item in diagnostics().items() if not names or name in names}
    vectors = max(1, min(16, min(W.shape) // 4))
    shape = (W.shape[0], W.shape[1])
    anchor = prepare(W, request_for(chosen, overrides, shape, tier, vectors=vectors))
    held = Stored(lambda: W.double() + left @ right.T, DOUBLE, "float32", (left, right))
    found = evaluate(anchor, held, chosen, overrides, Draws(draws, min(draws, edge), "test"))
    return {item.diagnostic.name: item for item in found.evaluated}


def readings(found: dict[str, Evaluated]) -> dict[str, Reading]:
    return {f"{name}.{q}": value for name, e in found.items() for q, value in e.readings.items()}


@pytest.mark.parametrize("tier", ["exact", "fast"])
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 50), st.integers(1, 50)), st.sampled_from([(120, 40), (40, 120)])
    ),
    r=st.integers(1, 12),
    stored=st.sampled_from([torch.bfloat16, torch.float32, DOUBLE]),
    seed=st.integers(0, 10**6),
)
def test_every_reading_is_that_of_the_dense_update(
    tier: Tier, shape: tuple[int, int], r: int, stored: torch.dtype, seed: int
) -> None:
    W, left, right = planted(shape, r, stored, seed)
    found = readings(evaluated(W, left, right, tier=tier, draws=0))
    truth = judge(W, W.double() + left @ right.T, left @ right.T)
    for name, true in truth.items():
        reading = found[name]
        if reading.value is None or "tied_gap" in reading.flags or not math.isfinite(true.error):
            continue
        assert abs(reading.value - true.value) <= reading.error_bound + true.error, name
    for diagnostic, quantities in OF_SPECTRUM.items():
        for quantity in quantities:
            reading = found[f"{diagnostic}.{quantity}"]
            true = truth[f"{diagnostic}.{quantity}"].value
            assert reading.value == pytest.approx(true, rel=1e-10), quantity
            assert reading.tier == "exact"


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("the update itself was decomposed")


@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_the_spectrum_does_not_come_from_the_product(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    W, left, right = planted((96, 64), 3)
    whole = readings(evaluated(W, left, right, tier=tier, draws=0))
    for module, name in DENSE:
        monkeypatch.setattr(module, name, refuse)
    assert readings(evaluated(W, left, right, tier=tier, draws=0)) == whole


@pytest.mark.parametrize("tier", ["exact", "fast"])
@pytest.mark.parametrize("shape", [(64, 48), (300, 280)])
def test_its_rank_is_exact_and_its_tail_undefined(tier: Tier, shape: tuple[int, int]) -> None:
    W, left, right = planted(shape, 3)
    found = evaluated(W, left, right, tier=tier, draws=3)
    assert found["rank"].readings["spikes"].value == 3
    assert found["rank"].readings["top16_energy"].value == pytest.approx(1, abs=1e-14)
    assert found["rank"].readings["effective_rank"].value <= 3 * (1 + 1e-9)
    assert found["tail"].readings["hill"].flags == ("tail_undefined",)
    defined = evaluated(W, left, right, "tail", tier=tier, draws=3, tail={"k": 3})
    s = torch.linalg.svdvals(left @ right.T)
    hill = 1 / float((s[:2] / s[2]).log().mean())
    assert defined["tail"].readings["hill"].value == pytest.approx(hill, rel=1e-9)


@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_its_nulls_have_its_norm_and_no_rank(tier: Tier) -> None:
    W, left, right = planted((64, 48), 3)
    found = evaluated(W, left, right, tier=tier, draws=4)
    flipped = null(found, "rank", "stable_rank", "sign_flip")
    assert flipped.mean is not None
    assert flipped.mean > 2 * found["rank"].readings["stable_rank"].value
    energy = null(found, "norm", "frobenius_norm", "permutation")
    assert energy.mean == pytest.approx(found["norm"].readings["frobenius_norm"].value, rel=1e-6)
    assert found["rotation"].primary("left_mean").mean > 0


def null(found: dict[str, Evaluated], name: str, quantity: str, wanted: str) -> NullReading:
    (one,) = (each for each in found[name].nulls[quantity] if each.null == wanted)
    return one


def judged(W: torch.Tensor, r: int, norm: float, count: int) -> dict[str, list[float]]:
    """What the judge reads of the draws, by the seeds that they have."""
    values: dict[str, list[float]] = {}
    for index in range(count):
        generator = generator_for("test", "random_factors", index)
        left, right = random_factors((W.shape[0], W.shape[1]), r, norm, generator)
        for name, true in judge(W, W.double() + left @ right.T, left @ right.T).items():
            values.setdefault(name, []).append(true.value)
    return values


@pytest.mark.parametrize(
    ("shape", "size", "error", "least"),
    [((64, 48), 1.0, 1e-6, 1e-7), ((40, 90), 1.0, 1e-6, 1e-7), ((300, 280), 0.1, 1e-2, 2e-5)],
)
@pytest.mark.parametrize("r", [3, 8])
def test_random_factors_read_as_their_dense_product(
    shape: tuple[int, int], size: float, error: float, least: float, r: int
) -> None:
    """Spectra to rounding, the rest to errors of the tier that draws, the fast one above 256."""
    W, left, right = planted(shape, r, DOUBLE)
    left = size * left
    found = evaluated(W, left, right, draws=3)
    beside = 0
    for key, values in judged(W, r, float((left @ right.T).norm()), 3).items():
        name, quantity = key.split(".")
        if "random_factors" not in found[name].diagnostic.ensembles or len(values) < 3:
            continue
        drawn = null(found, name, quantity, "random_factors")
        rel, floor = (1e-10, 0.0) if name in OF_SPECTRUM else (error, least)
        mean, sd = statistics.mean(values), statistics.stdev(values)
        assert drawn.mean == pytest.approx(mean, rel=rel, abs=floor), key
        assert drawn.sd == pytest.approx(sd, abs=rel * mean + floor), key
        beside += 1
    assert beside > 20


@pytest.mark.parametrize("shape", [(96, 64), (300, 280)])
def test_the_spectrum_of_random_factors_does_not_come_from_their_product(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    W, left, right = planted(shape, 3)
    whole = evaluated(W, left, right, edge=0)
    monkeypatch.setattr(draws, "ENSEMBLES", {})
    for module, name in DENSE:
        monkeypatch.setattr(module, name, refuse)
    alone = evaluated(W, left, right, edge=0)
    for name in ("norm", "rank", "spectrum_shares", "rotation", "spectral_shift"):
        for quantity in alone[name].readings:
            drawn = null(alone, name, quantity, "random_factors")
            assert drawn == null(whole, name, quantity, "random_factors")


def test_an_update_without_structure_reads_as_random_factors_do() -> None:
    """One of uneven factors does not: what stands beside it is that of its rank, not full rank."""
    W, left, right = planted((96, 64), 6)
    for scale, is_far in ((torch.ones(6, dtype=DOUBLE), False), (0.4 ** torch.arange(6), True)):
        found = evaluated(W, left * scale, right, draws=8)
        for quantity in ("stable_rank", "effective_rank"):
            beside = found["rank"].primary(quantity)
            assert beside is not None
            assert beside.null == "random_factors"
            assert beside.mean is not None
            assert beside.sd is not None
            away = beside.mean - found["rank"].readings[quantity].value
            assert (away > 5 * beside.sd) is is_far


def test_what_has_no_factors_has_no_random_ones() -> None:
    W, left, right = planted((64, 48), 3)
    found = dense_evaluated(W, W.double() + left @ right.T, "rank", "rotation", storage=DOUBLE)
    for evaluation in found.values():
        names = {each.null for nulls in evaluation.nulls.values() for each in nulls}
        assert "sign_flip" in names
        assert "random_factors" not in names


def test_factors_of_nothing_read_as_a_zero_update() -> None:
    W = planted((64, 48), 1)[0]
    none, zero = (torch.zeros(64, k, dtype=DOUBLE) for k in (0, 2))
    for left, right in ((none, torch.zeros(48, 0, dtype=DOUBLE)), (zero, planted((1, 48), 2)[2])):
        found = readings(evaluated(W, left, right))
        assert found["norm.frobenius_norm"] == Reading(0.0, flags=("zero_update",))
        assert found["sparsity.sparsity"].value == 1
        assert "zero_update" in found["tail.hill"].flags


Leading = Callable[..., dict[str, torch.Tensor]]


def test_a_step_has_the_leading_factors_of_its_product() -> None:
    _, left, right = planted((64, 48), 5)
    D = left @ right.T
    mine, dense = leading_of_step((left, right), 4), exact.leading(D, 4)
    assert float(mine["norm"]) == pytest.approx(float(D.norm()), rel=1e-12)
    torch.testing.assert_close(mine["delta_spectrum"][:5], dense["delta_spectrum"][:5])
    for side in ("left", "right"):
        overlap = (mine[side].T @ dense[side]).abs()
        torch.testing.assert_close(overlap, torch.eye(4, dtype=DOUBLE), rtol=0, atol=1e-9)
    wide = leading_of_step((left, right), 12)
    torch.testing.assert_close(
        wide["left"].T @ wide["left"], torch.eye(12, dtype=DOUBLE), rtol=0, atol=1e-12
    )
