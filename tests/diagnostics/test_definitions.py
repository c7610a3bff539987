"""Every diagnostic against a naive evaluation of its definition with float64 LAPACK."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.updates import Case, case, diagnostics, read, values

from offaxis.diagnostics.base import Reading

SHAPES = [(48, 80), (80, 48), (64, 64), (16, 16), (3, 9), (1, 6), (6, 1), (1, 1)]


def double(W0: torch.Tensor, W1: torch.Tensor, **options: object) -> Case:
    return case(W0.double(), W1.double(), **options)


def planted(shape: tuple[int, int], size: float = 0.02, seed: int = 0, **options: object) -> Case:
    g = torch.Generator().manual_seed(seed)
    W0 = 0.05 * torch.randn(shape, generator=g)
    D = torch.randn(shape, generator=g)
    return double(W0, W0 + size * D * W0.norm() / D.norm(), **options)


def numpy_of(pair: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pair.W0.numpy(), pair.W1.numpy(), pair.D.numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_norms_and_ranks(shape: tuple[int, int]) -> None:
    pair = planted(shape)
    W0, _, D = numpy_of(pair)
    s = np.linalg.svd(D)[1]
    norms = values(pair, "norm")
    assert norms["frobenius_norm"] == pytest.approx(np.sqrt((D**2).sum()), rel=1e-9)
    assert norms["relative_norm"] == pytest.approx(np.sqrt((D**2).sum() / (W0**2).sum()), rel=1e-9)
    assert norms["spectral_norm"] == pytest.approx(s[0], rel=1e-9)
    ranks = values(pair, "rank")
    share = s / s.sum()
    assert ranks["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-9)
    assert ranks["effective_rank"] == pytest.approx(
        np.exp(-(share * np.log(share)).sum()), rel=1e-9
    )
    assert ranks["top16_energy"] == pytest.approx((s[:16] ** 2).sum() / (s**2).sum(), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-7, 1e-3, 0.3])
def test_spectral_shift(shape: tuple[int, int], size: float) -> None:
    pair = planted(shape, size)
    W0, W1, _ = numpy_of(pair)
    s0, s1 = (scipy.linalg.svd(W, compute_uv=False, lapack_driver="gesvd") for W in (W0, W1))
    wanted = np.linalg.norm(s1 - s0) / np.linalg.norm(s0)
    found = read(pair, "spectral_shift")["spectral_shift"]
    assert abs(found.value - wanted) <= 1e-12
    assert found.error_bound <= 1e-10
    assert found.value <= pair.update.norm / pair.update.anchor.norm + 1e-12  # Mirsky


@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (64, 64), (16, 16)])
def test_rotation(shape: tuple[int, int]) -> None:
    pair = planted(shape, 0.2)
    W0, W1, D = numpy_of(pair)
    k = max(1, min(shape) // 8)
    (U0, s0, V0), (U1, _, V1) = np.linalg.svd(W0), np.linalg.svd(W1)
    found = values(pair, "rotation")
    for side, old, new in (("left", U0[:, :k], U1[:, :k]), ("right", V0[:k].T, V1[:k].T)):
        wanted = scipy.linalg.subspace_angles(old, new)
        assert found[f"{side}_max"] == pytest.approx(wanted.max(), abs=1e-7)
        assert found[f"{side}_mean"] == pytest.approx(wanted.mean(), abs=1e-7)
    assert found["gap"] == pytest.approx((s0[k - 1] - s0[k]) / s0[k - 1], rel=1e-9)
    assert found["gap_ratio"] == pytest.approx(np.linalg.norm(D, 2) / (s0[k - 1] - s0[k]), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2])
def test_sparsity_and_masks(shape: tuple[int, int], size: float) -> None:
    pair = planted(shape, size)
    W0, W1 = pair.W0, pair.W1
    a, b = (W.float().bfloat16().float().numpy() for W in (W0, W1))
    changed = np.abs(b - a) > 1e-3 * np.maximum(np.abs(a), np.abs(b))
    found = values(pair, "sparsity")
    assert found["sparsity"] == 1 - changed.mean()
    assert found["density"] == changed.mean()
    overlaps = values(pair, "masks")
    if not changed.any():
        assert set(overlaps.values()) == {None}
        return
    rank, n = max(1, min(shape) // 8), W0.numel()
    U, s, Vh = np.linalg.svd(W0.numpy(), full_matrices=False)
    principal = np.abs(U[:, :rank] * s[:rank] @ Vh[:rank])
    for quantity, score in (
        ("principal_overlap", principal),
        ("low_magnitude_overlap", -np.abs(W0.numpy())),
    ):
        order = np.argsort(-score, axis=None)
        wanted, inside = 0.3 * n, 0.0
        for position, entry in enumerate(order):
            share = min(max(wanted - position, 0.0), 1.0)
            inside += share * changed.flat[entry]
        assert overlaps[quantity] == pytest.approx(inside / changed.sum(), rel=1e-9)


def test_hill() -> None:
    pair = planted((64, 64), 0.1)
    s = np.linalg.svd(numpy_of(pair)[2])[1][:10]
    wanted = 1 / np.mean(np.log(s[:9] / s[9]))
    assert values(pair, "tail")["hill"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_zero_update_reads_what_is_documented(shape: tuple[int, int]) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pair = double(W, W)
    found = {q: reading for name in diagnostics() for q, reading in read(pair, name).items()}
    undefined = {
        "principal_overlap",
        "low_magnitude_overlap",
        "odds_ratio",
        "consistency",
        "principal_energy",
        "hill",
    }
    undefined |= {
        quantity
        for item in diagnostics().values()
        if item.is_relative
        for quantity in item.units
        if not quantity.endswith(("coverage", "sparsity"))
    }
    for quantity, reading in found.items():
        if quantity == "gap":
            assert reading.value is not None
        elif quantity in undefined:
            assert reading.value is None
            assert reading.flags
        elif quantity == "gap_ratio" and reading.value is None:
            assert "tied_gap" in reading.flags
        else:
            assert reading.value == quantity.endswith("sparsity"), quantity
            assert "zero_update" in reading.flags


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["zero anchor", "rank one", "ties", "subnormal", "huge", "ordinary"]),
    st.integers(0, 1000),
)
def test_nothing_is_ever_nan(shape: tuple[int, int], kind: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=g, dtype=torch.float64)
    W0 = {
        "zero anchor": torch.zeros(shape, dtype=torch.float64),
        "rank one": torch.ones(shape, dtype=torch.float64),
        "ties": torch.eye(*shape, dtype=torch.float64),
        "subnormal": noise * 1e-41,
        "huge": noise.clamp(-1, 1) * 3e38,
        "ordinary": noise,
    }[kind]
    W1 = W0 + 1e-3 * W0.abs().max().clamp(min=1e-42) * torch.randn(
        shape, generator=g, dtype=torch.float64
    )
    pair = double(W0, W1)
    for name in diagnostics():
        for quantity, reading in read(pair, name).items():
            assert reading.value is None or math.isfinite(reading.value), quantity
            assert reading.value is not None or reading.flags, quantity
            assert math.isfinite(reading.error_bound), quantity


def test_planted_structure_is_recovered() -> None:
    """A rank-3 update in the anchor's own leading directions, seen through every reading."""
    g = torch.Generator().manual_seed(1)
    U = torch.linalg.qr(torch.randn(64, 64, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(96, 64, generator=g, dtype=torch.float64)).Q
    s = torch.linspace(10, 1, 64, dtype=torch.float64)
    change = torch.zeros(64, dtype=torch.float64)
    change[:3] = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    pair = double(U * s @ V.T, U * (s + change) @ V.T, edge=0.15)
    assert values(pair, "rotation")["left_max"] < 1e-12
    assert values(pair, "spectral_shift")["spectral_shift"] == pytest.approx(
        float(change.norm() / s.norm()), rel=1e-9
    )
    ranks = values(pair, "rank")
    assert ranks["spikes"] == 2
    assert ranks["stable_rank"] == pytest.approx(0.14 / 0.09, rel=1e-9)


def test_a_planted_rotation_is_recovered() -> None:
    g = torch.Generator().manual_seed(2)
    U = torch.linalg.qr(torch.randn(32, 32, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(32, 32, generator=g, dtype=torch.float64)).Q
    s = torch.cat([torch.full((4,), 5.0), torch.full((28,), 1.0)]).double()
    angle = 1e-6
    turned = V.clone()
    turned[:, 3] = math.cos(angle) * V[:, 3] + math.sin(angle) * V[:, 20]
    turned[:, 20] = math.cos(angle) * V[:, 20] - math.sin(angle) * V[:, 3]
    found = read(double(U * s @ V.T, U * s @ turned.T, rotation={"k": 4}), "rotation")
    reading = found["right_max"]
    # the left vectors stay, the right ones turn; the smaller block turns too, by s_j/s_i of it
    assert reading.value == pytest.approx(angle, rel=1e-6)
    assert abs(reading.value - angle) <= reading.error_bound + 1e-9 * angle + 1e-12
    assert found["left_max"].value < 1e-6


def test_a_setting_outside_the_matrix_is_flagged() -> None:
    found = read(planted((16, 16), rotation={"k": 17}), "rotation")
    assert {r.value for r in found.values()} == {None}
    assert {r.flags for r in found.values()} == {("k_outside_dimension",)}


def test_every_quantity_is_declared_once_with_a_unit_and_a_source() -> None:
    pair = planted((32, 48))
    for name, item in diagnostics().items():
        assert list(read(pair, name)) == list(item.units), name
        assert item.source
        assert item.function.__doc__


def test_one_diagnostic_is_one_file() -> None:
    import offaxis.diagnostics

    folder = Path(offaxis.diagnostics.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "base",
        "facts",
        "similarity",
    }
    assert files == set(diagnostics())


def test_the_bound_of_an_angle_knows_the_gap_of_both_sides() -> None:
    """Two matrices with the same subspaces, one of them with almost no gap at its boundary."""
    g = torch.Generator().manual_seed(3)
    U = torch.linalg.qr(torch.randn(24, 24, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(24, 24, generator=g, dtype=torch.float64)).Q
    s = torch.linspace(2, 1, 24, dtype=torch.float64)
    for closed in (1e-3, 1e-9, 1e-13):
        t = s.clone()
        t[3] = t[2] * (1 - closed)
        found = read(double(U * s @ V.T, U * t @ V.T, rotation={"k": 3}), "rotation")
        for name in ("left_max", "right_max", "left_mean", "right_mean"):
            assert found[name].value <= found[name].error_bound, closed


def test_the_bound_of_the_effective_rank_covers_rank_one() -> None:
    g = torch.Generator().manual_seed(4)
    for _ in range(20):
        D = torch.outer(
            torch.randn(40, generator=g, dtype=torch.float64),
            torch.randn(60, generator=g, dtype=torch.float64),
        )
        found = read(double(torch.ones(40, 60), torch.ones(40, 60) + D), "rank")
        # the pair is rounded to float64, which is an update of its own beside the exact rank one
        assert abs(found["effective_rank"].value - 1) <= 2 * found["effective_rank"].error_bound


def test_an_anchor_without_directions_has_no_rotation() -> None:
    zero = torch.zeros(16, 16)
    found = read(double(zero, torch.eye(16)), "rotation")
    assert {r.value for r in found.values()} == {None}
    assert {r.flags for r in found.values()} == {("zero_anchor",)}
    one = torch.zeros(16, 16)
    one[0, 0] = 1
    found = read(double(one, one + 0.1 * torch.eye(16), rotation={"k": 2}), "rotation")
    assert "tied_gap" in found["left_mean"].flags
    assert "rank_deficient" in found["gap"].flags


def test_planted_sparsity_is_recovered() -> None:
    g = torch.Generator().manual_seed(5)
    W0 = (0.05 * torch.randn(50, 80, generator=g)).bfloat16().float()
    for share in (0.0, 0.125, 0.5, 1.0):
        touched = torch.zeros(4000, dtype=torch.bool)
        touched[torch.randperm(4000, generator=g)[: int(share * 4000)]] = True
        W1 = torch.where(touched.view(50, 80), W0 * 1.05, W0)
        assert values(double(W0, W1), "sparsity")["density"] == share


def test_the_fast_tier_says_what_its_shift_is_worth() -> None:
    """Its validity is the judge's median coupling; beyond 0.05 the exact tier takes the shift."""
    g = torch.Generator().manual_seed(3)
    W0 = torch.randn(60, 90, generator=g, dtype=torch.float64)
    step = torch.randn(60, 90, generator=g, dtype=torch.float64)
    U, s, Vh = torch.linalg.svd(W0, full_matrices=False)
    gaps = s[:-1].square() - s[1:].square()
    for size, is_trusted in ((1e-6, True), (1e-1, False)):
        W1 = W0 + size * step
        P = U.T @ (size * step) @ Vh.T
        coupling = (P.diagonal(1) * s[1:] + s[:-1] * P.diagonal(-1)).abs() / gaps
        found = read(case(W0, W1, tier="fast"), "spectral_shift")
        assert found["validity"].value == pytest.approx(
            statistics.median(coupling.tolist()), rel=0.03
        )
        assert found["validity"].tier == "fast"
        assert found["spectral_shift"].tier == ("fast" if is_trusted else "exact")
        true = float((torch.linalg.svdvals(W1) - s).norm() / s.norm())
        shift = found["spectral_shift"]
        assert abs((shift.value or 0.0) - true) <= shift.error_bound
    exact = read(case(W0, W0 + step, tier="exact"), "spectral_shift")
    assert exact["validity"] == Reading(None, 0.0, ("not_needed",))
