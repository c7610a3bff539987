"""The diagnostics of related work, against their definitions and against simulated chance."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models import save_run
from tests.updates import case, diagnostics, evaluated, read, values

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.diagnostics.concentration import FRACTIONS
from offaxis.diagnostics.projection_energy import SHARES, dimension
from offaxis.diagnostics.spectrum_shares import PERCENT, RANKS
from offaxis.errors import CatalogError
from offaxis.linalg.basis import singular_basis
from offaxis.linalg.concentration import energy_of_largest, gaussian_energy_of_largest
from offaxis.linalg.elementwise import magnitude_table
from offaxis.linalg.masks import top_fraction
from offaxis.linalg.noise_law import iid_top_energy
from offaxis.linalg.onesided import sides_of
from offaxis.linalg.rounding import grid_of
from offaxis.linalg.stripes import dispersion, lines_of, placed_at_random, placed_in_binades
from offaxis.linalg.tolerances import gate_within, gaussian_within, within
from offaxis.measurement import Options, every_name, units
from offaxis.measurement.options import passes, relatives
from offaxis.measurement.plan import make_plan
from offaxis.measurement.stream import run_task
from offaxis.measurement.units import READING_CELLS
from offaxis.table import ResultsFolder

DOUBLE = torch.float64


def noise(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def pair(size: float = 1e-3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    W0 = (0.05 * noise(48, 80, seed)).bfloat16().float()
    return W0, W0 + (size * noise(48, 80, seed + 1)).float()


def null(found: dict, diagnostic: str, quantity: str, name: str) -> tuple[float, float | None]:
    nulls = {each.null: each for each in found[diagnostic].nulls[quantity]}
    return nulls[name].mean, nulls[name].sd


def test_combinations_of_masks_are_those_of_their_entries() -> None:
    W0, W1 = pair()
    changed = W0.bfloat16() != W1.bfloat16()
    U, s, Vh = torch.linalg.svd(W0.double(), full_matrices=False)
    alpha, rank = 0.3, 6
    P = top_fraction((U[:, :rank] * s[:rank] @ Vh[:rank]).abs(), alpha)
    L = top_fraction(-W0.double().abs(), alpha)
    wanted = {
        "principal_not_low": P * (1 - L),
        "not_principal": 1 - P,
        "not_principal_or_low": 1 - P * (1 - L),
        "principal_or_low": P + L - P * L,
    }
    found = values(case(W0, W1), "mask_algebra")
    for name, M in wanted.items():
        share = float((M * changed).sum() / changed.sum())
        assert found[f"{name}_overlap"] == pytest.approx(share, abs=2e-4)
    for name, M in (("principal", P), ("low_magnitude", L)):
        share = float((M * changed).sum() / M.sum())
        assert found[f"{name}_coverage"] == pytest.approx(share, abs=2e-4)


def test_an_update_planted_in_the_third_mask_is_there() -> None:
    W0, _ = pair()
    P = top_fraction(_principal(W0, 6), 0.3) == 1
    L = top_fraction(-W0.double().abs(), 0.3) > 0
    W1 = torch.where(P & ~L, W0 * 1.05, W0)
    found = values(case(W0, W1), "mask_algebra")
    assert found["principal_not_low_overlap"] == pytest.approx(1, abs=1e-3)
    assert found["not_principal_or_low_overlap"] == pytest.approx(0, abs=1e-3)
    assert found["low_magnitude_coverage"] == 0


def _principal(W: torch.Tensor, rank: int) -> torch.Tensor:
    U, s, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    return (U[:, :rank] * s[:rank] @ Vh[:rank]).abs()


def test_masks_under_an_update_that_knows_nothing_of_them_read_their_nulls() -> None:
    W0, W1 = pair(size=3e-4)
    found = evaluated(W0, W1, "mask_algebra", draws=0)
    for quantity, reading in found["mask_algebra"].readings.items():
        for name in ("gate_half_ulp", "stratified"):
            mean, sd = null(found, "mask_algebra", quantity, name)
            assert abs(reading.value - mean) < 4.5 * sd + 2e-3, (quantity, name)
    mean, _ = null(found, "mask_algebra", "low_magnitude_coverage", "chance")
    assert found["mask_algebra"].readings["low_magnitude_coverage"].value > 1.2 * mean


def test_mask_algebra_takes_the_settings_of_the_masks() -> None:
    W0, W1 = pair()
    wide, narrow = (case(W0, W1, masks={"alpha": alpha}) for alpha in (0.5, 0.1))
    assert (
        values(wide, "mask_algebra")["principal_or_low_overlap"]
        > values(narrow, "mask_algebra")["principal_or_low_overlap"] + 0.2
    )


def test_stripes_are_seen_in_rows_and_not_in_columns() -> None:
    g = torch.Generator().manual_seed(3)
    W0 = torch.full((40, 60), 0.5)
    hot = (
        torch.rand(40, 60, generator=g) < torch.where(torch.arange(40) % 4 == 0, 0.8, 0.2)[:, None]
    )
    W1 = torch.where(hot, 0.6, 0.5)
    found = evaluated(W0, W1, "line_ratios")
    row, col = (
        found["line_ratios"].readings[f"{side}_dispersion"].value for side in ("row", "col")
    )
    counts = hot.double().sum(1)
    p = float(hot.double().mean())
    assert row == pytest.approx(float(counts.var()) / (60 * p * (1 - p) * 2400 / 2399), rel=1e-12)
    mean, sd = null(found, "line_ratios", "row_dispersion", "stratified")
    assert row > mean + 20 * sd
    mean, sd = null(found, "line_ratios", "col_dispersion", "stratified")
    assert abs(col - mean) < 4 * sd


def test_the_laws_of_dispersion_are_those_of_placing_changes() -> None:
    """Rows of unlike size: changes are placed inside binades, and anywhere, again and again."""
    g = torch.Generator().manual_seed(4)
    size = torch.logspace(-2, 0, 12, base=10)[:, None]
    W0 = (size * torch.randn(12, 30, generator=g)).bfloat16()
    binades = W0.view(torch.int16).long() >> 7 & 0xFF
    first = torch.rand(12, 30, generator=g) < 0.5 * (binades < binades.median())
    changed = torch.zeros(256, dtype=DOUBLE).index_add_(
        0, binades.flatten(), first.double().flatten()
    )

    def placed(groups: torch.Tensor) -> torch.Tensor:
        hit = torch.zeros(360, dtype=torch.bool)
        for group in groups.unique():
            places = (groups == group).nonzero()[:, 0]
            count = int(first.flatten()[places].sum())
            hit[places[torch.randperm(len(places), generator=g)[:count]]] = True
        return hit.view(12, 30)

    for groups, law in (
        (binades.flatten(), lambda lines: placed_in_binades(lines, changed)),
        (torch.zeros(360), placed_at_random),
    ):
        draws = []
        for _ in range(400):
            W1 = torch.where(placed(groups), 2 * W0, W0)
            rows, _ = lines_of(W0, W1, 1e-3)
            draws.append(dispersion(rows))
        mean, sd = np.mean(draws), np.std(draws)
        found = law(rows)
        assert found.mean == pytest.approx(mean, abs=4.5 * sd / 20)
        assert found.sd == pytest.approx(sd, rel=0.25)


def test_an_absolute_tolerance_counts_as_torch_does() -> None:
    for size in (1e-6, 1e-5, 1e-4):
        W0, W1 = pair(size)
        for atol in (1e-5, 1e-4):
            found = values(case(W0, W1, tolerance={"atol": atol}), "tolerance")
            step = W1.bfloat16() - W0.bfloat16()
            close = torch.isclose(step.float(), torch.zeros(()), rtol=0, atol=np.float32(atol))
            assert found["absolute_sparsity"] == float(close.double().mean())
            stored = (W1.double() - W0.double()).abs() <= atol
            assert found["stored_absolute_sparsity"] == float(stored.double().mean())


@pytest.mark.parametrize("tolerance", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("rms", [1e-5, 1e-3])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_the_gate_of_a_tolerance_is_that_of_gaussian_updates(
    tolerance: float, rms: float, stored: torch.dtype
) -> None:
    W0 = (0.05 * noise(300, 300) ** 3).to(stored)
    weights = grid_of(magnitude_table(W0, None), on_grid=stored == torch.bfloat16)
    W1 = W0.double() + rms * noise(300, 300, 1)
    found = within(W0, W1, tolerance)
    expected = gate_within(weights, rms, tolerance)
    assert found.in_bf16 / found.entries == pytest.approx(expected, abs=4.5 * 0.5 / 300)
    assert found.stored / found.entries == pytest.approx(
        gaussian_within(rms, tolerance), abs=4.5 * 0.5 / 300
    )


def test_concentration_is_that_of_sorted_squares() -> None:
    W0, W1 = pair()
    squares = np.sort(((W1.double() - W0.double()).numpy() ** 2).ravel())[::-1]
    found = values(case(W0, W1), "concentration")
    for quantity, fraction in FRACTIONS.items():
        wanted = fraction * squares.size
        whole = int(wanted)
        energy = squares[:whole].sum() + (wanted - whole) * squares[whole]
        assert found[quantity] == pytest.approx(energy / squares.sum(), rel=1e-9)
    one = torch.zeros(40, 50, dtype=DOUBLE)
    one[3, 4] = 1e-30
    assert energy_of_largest(one, 1e-3) == 1
    assert energy_of_largest(torch.ones(40, 50), 0.013) == pytest.approx(0.013)


def test_the_law_of_concentration_is_that_of_gaussian_matrices() -> None:
    for fraction in (0.01, 0.2):
        draws = [energy_of_largest(noise(60, 50, seed), fraction) for seed in range(200)]
        law = gaussian_energy_of_largest(fraction, 3000)
        # to the order of one entry, the share of a finite sample is that of the law
        assert law.mean == pytest.approx(np.mean(draws), abs=4 * law.sd / 200**0.5 + 5e-4)
        assert law.sd == pytest.approx(np.std(draws), rel=0.2)


@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (30, 30)])
def test_projection_energies_are_those_of_lapack(shape: tuple[int, int]) -> None:
    W0 = noise(*shape)
    D = 1e-3 * noise(*shape, 1)
    U, _, Vh = torch.linalg.svd(W0, full_matrices=False)
    readings = read(case(W0, W0 + D), "projection_energy")
    for label, share in SHARES.items():
        k = dimension(share, min(shape))
        L, R = U[:, :k].T @ D, D @ Vh[:k].T
        for name, part in (("left", L), ("right", R), ("joint", L @ Vh[:k].T)):
            true = float(part.square().sum() / D.square().sum())
            found = readings[f"{name}_{label}"]
            assert abs(found.value - true) <= found.error_bound + 1e-9


def test_energies_under_signs_are_the_mean_over_all_of_them() -> None:
    W0, D = noise(3, 4), noise(3, 4, 1) * torch.tensor([1.0, 5.0, 0.1])[:, None]
    basis, norm = singular_basis(W0), float(D.norm())
    total = [torch.zeros(3, dtype=DOUBLE) for _ in range(3)]
    for signs in product((-1.0, 1.0), repeat=11):  # a common sign changes nothing
        S = torch.tensor((1.0, *signs), dtype=DOUBLE).view(3, 4)
        found = sides_of(basis, S * D, norm)
        for held, each in zip(total, (found.left, found.right, found.joint), strict=True):
            held.add_(each / 2**11)
    for mean, law in zip(
        total, (found.left_signs, found.right_signs, found.joint_signs), strict=True
    ):
        torch.testing.assert_close(mean, law, rtol=0, atol=1e-6)


def test_shares_of_the_spectrum_are_those_of_lapack() -> None:
    W0, D = (
        noise(150, 200),
        noise(150, 200, 1) + 3 * torch.outer(noise(150, 1)[:, 0], noise(1, 200)[0]),
    )
    e = torch.linalg.svdvals(D).square()
    e /= e.sum()
    found = values(case(W0, W0 + D), "spectrum_shares")
    for k in RANKS:
        assert found[f"top{k}_energy"] == pytest.approx(float(e[:k].sum()), rel=1e-9)
    for share in PERCENT:
        k = math.ceil(share * 1.5)
        assert found[f"top{share}pct_energy"] == pytest.approx(float(e[:k].sum()), rel=1e-9)
    assert found["spectral_ratio"] == pytest.approx(float(e[0]) ** 0.5, rel=1e-9)
    assert found["top1pct_norm"] == pytest.approx(float(e[:2].sum()) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("shape", [(200, 200), (150, 600)])
def test_noise_shares_its_energy_by_its_law(shape: tuple[int, int]) -> None:
    e = torch.linalg.svdvals(noise(*shape)).square()
    for k in (1, 10, 75, 149):
        share = float(e[:k].sum() / e.sum())
        assert iid_top_energy(*shape, k) == pytest.approx(share, rel=0.06 if k == 1 else 0.02)
    assert iid_top_energy(*shape, min(shape)) == 1
    assert iid_top_energy(4096, 4096, 2048) > iid_top_energy(4096, 40960, 2048) > 0.5


def test_values_beyond_the_fast_tiers_are_said_to_be() -> None:
    W0 = noise(300, 320)
    fast = read(case(W0, W0 + 1e-3 * noise(300, 320, 1), tier="fast"), "spectrum_shares")
    assert fast["top64_energy"].flags == ("beyond_top",)
    assert fast["top8_energy"].value == pytest.approx(iid_top_energy(300, 320, 8), rel=0.1)


def test_the_spectral_residual_tells_a_push_from_a_turn() -> None:
    W0 = noise(60, 90)
    U, s, Vh = torch.linalg.svd(W0, full_matrices=False)
    stretched = values(case(W0, U * (s + 1e-3 * s.flip(0)) @ Vh), "spectral_residual")
    assert stretched["spectral_residual"] == pytest.approx(1, rel=1e-6)
    assert stretched["kappa_spec"] == pytest.approx(90, rel=1e-6)
    K = 1e-4 * noise(90, 90, 1)
    turn = torch.linalg.matrix_exp(K - K.T)
    turned = values(case(W0, W0 @ turn), "spectral_residual")
    assert turned["spectral_residual"] < 1e-9
    found = evaluated(W0, W0 + 1e-6 * noise(60, 90, 2), "spectral_residual")
    kappa = found["spectral_residual"].readings["kappa_spec"].value
    mean, sd = null(found, "spectral_residual", "kappa_spec", "isotropic")
    assert abs(kappa - mean) < 4 * sd
    drawn, _ = null(found, "spectral_residual", "kappa_spec", "sign_flip")
    assert abs(drawn - mean) < 4 * sd


def test_relatives_are_added_to_what_is_measured(tmp_path: Path) -> None:
    run = find_trajectories([save_run(tmp_path / "run", {1: 1e-3})])
    results = ResultsFolder(tmp_path / "out")
    for names in (["norm"], ["relatives"]):
        options = Options(passes=passes(["stored"], names), draws=2)
        for task in make_plan(run, results, options, str).tasks:
            assert run_task(task) == 1
    rows = {}
    for path in results.root.glob("factors/run/1/*.safetensors"):
        found = units.load(path)
        rows[path.name] = [dict(zip(READING_CELLS, row, strict=True)) for row in found.readings]
    vector = rows.pop("model.norm.weight.stored.safetensors")
    assert {row["diagnostic"] for row in vector} == {"norm", "tolerance", "concentration"}
    assert len(rows) == 5
    for matrix in rows.values():
        assert {row["diagnostic"] for row in matrix} == {"norm", *relatives()}
        for row in matrix:
            assert row["flags"] or None not in (row["value"], row["null_mean"])


def test_relatives_are_measured_where_they_are_named() -> None:
    assert set(relatives()) == {n for n, item in diagnostics().items() if item.is_relative}
    assert not set(relatives()) & set(every_name())
    assert set(passes(["stored"], None)[0].diagnostics) == set(every_name())
    assert set(passes(["stored"], ["relatives"])[0].diagnostics) == set(relatives())
    assert passes(["stored"], ["rank", "concentration"])[0].diagnostics == ("concentration", "rank")
    with pytest.raises(CatalogError, match="line_ratios"):
        passes(["stored"], ["line_ratio"])
