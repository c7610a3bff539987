"""Bounds of the exact tier's decompositions, judged by LAPACK's SVD in float64."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from offaxis.linalg import factors
from offaxis.linalg.angles import principal_angles
from offaxis.linalg.factors import TopFactors, factorise, spectrum
from offaxis.linalg.ranks import effective_rank
from offaxis.linalg.spectra import exact_svd

EPS = torch.finfo(torch.float64).eps
SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (12, 30), (30, 12), (24, 24)]


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=g, dtype=torch.float64)).Q


def built(shape: tuple[int, int], s: torch.Tensor, seed: int = 0) -> torch.Tensor:
    p = min(shape)
    return orthonormal(shape[0], p, 2 * seed) * s @ orthonormal(shape[1], p, 2 * seed + 1).T


def judge_error(W: torch.Tensor, s: torch.Tensor) -> float:
    """LAPACK's own error."""
    return max(W.shape) * EPS * float(s[0])


def check_values(W: torch.Tensor) -> None:
    truth = exact_svd(W.double()).s
    for found in (spectrum(W), factorise(W).spectrum):
        own = judge_error(W, truth)
        error = (found.s - truth).abs()
        assert bool((error <= found.bound + own).all())
        assert bool((found.s.diff() <= 2 * found.bound.max()).all())
        assert found.resolved == int((found.s > 1e-7 * found.s[0]).sum())
        leading = truth >= 1e-3 * truth[0]
        assert bool((error <= 1e-9 * truth + own)[leading].all())
        total = float(truth.sum()) or 1.0
        carried = 25 * float(found.bound.sum()) / total  # 25 > |log| of any share that counts
        rank = effective_rank(truth)
        assert abs(effective_rank(found.s) - rank) <= (1e-9 + carried) * rank


def check_factors(W: torch.Tensor, k: int, top: TopFactors) -> None:
    for basis, rows in ((top.left, W.shape[0]), (top.right, W.shape[1])):
        assert basis.shape == (rows, k)
        assert float((basis.T @ basis - torch.eye(k, dtype=basis.dtype)).abs().max()) < 1e-12
    unit = float(top.s[0]) or 1.0
    core = top.left.T @ W.double() @ top.right
    assert float((core - torch.diag(top.s)).abs().max()) <= 1e-6 * unit


def spectra() -> st.SearchStrategy[list[float]]:
    value = st.one_of(
        st.sampled_from([0.0, 1.0, 1.0, 1 - 1e-12, 0.5, 1e-7, 1e-12]),
        st.floats(-10, 0).map(lambda x: 10**x),
    )
    return st.lists(value, min_size=24, max_size=24).map(lambda s: sorted(s, reverse=True))


@pytest.mark.parametrize("shape", SHAPES)
@given(values=spectra(), seed=st.integers(0, 10**6))
@example(values=[1.0] * 24, seed=0)
@example(values=[0.0] * 24, seed=0)
@example(values=[1.0] + [0.0] * 23, seed=0)
def test_every_bound_of_a_prescribed_spectrum(
    shape: tuple[int, int], values: list[float], seed: int
) -> None:
    W = built(shape, torch.tensor(values, dtype=torch.float64)[: min(shape)], seed)
    check_values(W)
    decomposed, judge = factorise(W), exact_svd(W)
    for k in sorted({1, (min(shape) + 1) // 2, min(shape)}):
        top = decomposed.top(k)
        check_factors(W, k, top)
        gap = float(judge.s[k - 1] - (judge.s[k] if k < min(shape) else 0))
        own = judge_error(W, judge.s) / gap if gap > 0 else 2.0
        floor = decomposed.subspace_floor(k) + own
        for basis, exact in ((top.left, judge.U), (top.right, judge.Vh.T)):
            assert float(principal_angles(basis, exact[:, :k])[-1]) <= floor + 1e-13


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 2.0**120, 2.0**-126])
@pytest.mark.parametrize("shape", [(10, 24), (24, 10), (1, 24), (16, 16)])
def test_stored_formats(shape: tuple[int, int], dtype: torch.dtype, scale: float) -> None:
    if dtype == torch.float16:
        scale = min(max(scale, 2.0**-14), 2.0**12)
    W = (built(shape, torch.linspace(9, 1, min(shape), dtype=torch.float64)) * scale).to(dtype)
    assert bool(W.isfinite().all())
    check_values(W)
    check_factors(W / scale if scale > 1 else W, 1, factorise(W / scale if scale > 1 else W).top(1))


@pytest.mark.parametrize("scale", [2.0**1000, 2.0**-900])
def test_extreme_float64(scale: float) -> None:
    W = built((6, 9), torch.linspace(3, 1, 6, dtype=torch.float64))
    plain, far = factorise(W), factorise(W * scale)
    torch.testing.assert_close(far.spectrum.s / scale, plain.spectrum.s, rtol=1e-14, atol=0)
    torch.testing.assert_close(spectrum(W * scale).s / scale, plain.spectrum.s, rtol=1e-14, atol=0)
    for basis, other in zip(far.top(2), plain.top(2), strict=True):
        assert bool(basis.isfinite().all())
        assert basis.shape == other.shape
    assert far.subspace_floor(2) == pytest.approx(plain.subspace_floor(2), rel=1e-9)


@pytest.mark.parametrize("shape", [(96, 130), (130, 96)])
@pytest.mark.parametrize(
    "s",
    [
        torch.linspace(2, 1, 4),
        torch.logspace(0, -2.5, 20),
        torch.logspace(0, -6, 8),  # several rounds of projection
        torch.logspace(0, -6, 96),
        torch.logspace(0, -12, 96),
    ],
    ids=["rank 4", "rank 20", "rank 8, wide range", "full, wide range", "full, very wide range"],
)
def test_deficient_matrices(shape: tuple[int, int], s: torch.Tensor) -> None:
    values = torch.zeros(96, dtype=torch.float64)
    values[: s.numel()] = s
    W = built(shape, values)
    check_values(W)
    found = factorise(W).spectrum
    truth = exact_svd(W).s
    assert effective_rank(found.s) == pytest.approx(effective_rank(truth), rel=1e-9)
    if found.bound[-1] <= 4 * judge_error(W, truth):  # what squaring had lost was found again
        assert bool(((found.s - truth).abs() <= 1e-9 * truth + 4 * judge_error(W, truth)).all())
    else:
        assert found.resolved == 96


@pytest.mark.parametrize("shape", [(96, 130), (130, 96), (96, 96)])
@pytest.mark.parametrize("small", [[0.0] * 8, [1e-4, 1e-5, 1e-6, 1e-6, 1e-7, 1e-9], [5e-4, 1e-8]])
def test_a_few_small_values(shape: tuple[int, int], small: list[float]) -> None:
    s = torch.linspace(1, 0.1, 96, dtype=torch.float64)
    s[96 - len(small) :] = torch.tensor(small, dtype=torch.float64)
    W = built(shape, s)
    check_values(W)
    found, truth = spectrum(W).s, exact_svd(W).s
    assert bool(((found - truth).abs() <= 1e-9 * truth + 4 * judge_error(W, truth)).all())
    assert effective_rank(found) == pytest.approx(effective_rank(truth), rel=1e-9)


def test_nothing_but_rounding_is_left_of_a_planted_rank() -> None:
    W = built((96, 130), torch.tensor([2.0, 1.5, 1.2, 1.0] + [0.0] * 92, dtype=torch.float64))
    found = factorise(W).spectrum
    assert found.resolved == 4
    assert float(found.s[4:].max()) <= float(found.bound[4:].max()) <= 4 * 130 * EPS * 2.0


def test_zero_matrix() -> None:
    decomposed = factorise(torch.zeros(3, 5, dtype=torch.bfloat16))
    assert decomposed.spectrum.s.tolist() == [0, 0, 0]
    assert decomposed.spectrum.bound.tolist() == [0, 0, 0]
    assert decomposed.spectrum.resolved == 0
    check_factors(torch.zeros(3, 5), 2, decomposed.top(2))


def test_the_svd_steps_in_where_squaring_would_blur() -> None:
    s = torch.cat([torch.ones(4), torch.full((4,), 3e-5), torch.full((16,), 1e-5)]).double()
    W = built((24, 40), s)
    decomposed = factorise(W)
    assert decomposed._needs_svd(8)
    assert decomposed.subspace_floor(8) <= 1e-6
    judge = exact_svd(W)
    assert float(principal_angles(decomposed.top(8).left, judge.U[:, :8])[-1]) < 1e-9
    check_factors(W, 8, decomposed.top(8))


def test_vectors_are_orthonormal_far_down_the_spectrum() -> None:
    W = built((200, 260), torch.logspace(0, -3.4, 200, dtype=torch.float64))
    for k in (20, 150, 198):
        check_factors(W, k, factorise(W).top(k))


def test_dense_route_agrees(monkeypatch) -> None:
    """The one that other devices take."""
    W = built((20, 33), torch.linspace(3, 1, 20, dtype=torch.float64))
    here = factorise(W)
    monkeypatch.setattr(factors, "eigensystem", factors_dense)
    there = factorise(W)
    torch.testing.assert_close(there.spectrum.s, here.spectrum.s, rtol=1e-13, atol=0)
    assert float(principal_angles(there.top(5).right, here.top(5).right)[-1]) < 1e-12


def factors_dense(G: torch.Tensor):
    from offaxis.linalg.tridiagonal import Dense

    return Dense(G)


def turned(angles: list[float], shape: tuple[int, int], s: torch.Tensor) -> tuple:
    """Two matrices whose top-k left subspaces stand at the given angles; right ones agree."""
    k, p = len(angles), min(shape)
    frame = orthonormal(shape[0], p, 1)
    theta = torch.tensor(angles, dtype=torch.float64)
    other = frame.clone()
    first, second = frame[:, :k], frame[:, k : 2 * k]
    other[:, :k] = first * theta.cos() + second * theta.sin()
    other[:, k : 2 * k] = second * theta.cos() - first * theta.sin()
    V = orthonormal(shape[1], p, 2)
    return frame * s @ V.T, other * s @ V.T


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
@pytest.mark.parametrize(
    "angles", [[1e-6, 1e-5, 1e-3, 0.5, 1.5], [1e-6] * 5, [0.3, 0.6, 0.9, 1.2, 1.5]]
)
def test_constructed_angles_are_recovered(shape: tuple[int, int], angles: list[float]) -> None:
    s = torch.linspace(4, 1, 40, dtype=torch.float64)
    old, new = (factorise(W) for W in turned(angles, shape, s))
    floor = old.subspace_floor(5) + new.subspace_floor(5)
    assert floor < 1e-10
    found = principal_angles(old.top(5).left, new.top(5).left)
    wanted = torch.tensor(sorted(angles), dtype=torch.float64)
    assert bool(((found - wanted).abs() <= 1e-9 * wanted + floor).all())
    assert float(principal_angles(old.top(5).right, new.top(5).right)[-1]) <= floor


@given(st.integers(0, 10**6), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_a_permuted_copy_stays_within_the_floor(seed: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(20, 34, generator=g, dtype=torch.float64).to(dtype)
    rows, columns = torch.randperm(20, generator=g), torch.randperm(34, generator=g)
    one, other = factorise(W), factorise(W[rows][:, columns])
    for k in (1, 5, 19, 20):
        floor = one.subspace_floor(k) + other.subspace_floor(k) + 1e-14
        a, b = one.top(k), other.top(k)
        assert float(principal_angles(a.left[rows], b.left)[-1]) <= floor
        assert float(principal_angles(a.right[columns], b.right)[-1]) <= floor
    same = factorise(W)
    assert torch.equal(same.spectrum.s, one.spectrum.s)
    assert float(principal_angles(same.top(5).left, one.top(5).left)[-1]) < 1e-14
