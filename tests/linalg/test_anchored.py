"""What the anchor's basis tells is judged by float64 LAPACK on both matrices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg.angles import principal_angles
from offaxis.linalg.basis import singular_basis
from offaxis.linalg.projection import coarse_energy_inside, energy_inside, project
from offaxis.linalg.shift import VALID, spectral_shift
from offaxis.linalg.turning import RESOLUTION, Turning, turned_angles

DOUBLE = torch.float64


def weights(m: int, n: int, seed: int = 0) -> torch.Tensor:
    """A bulk with row and column scales and power-law spikes, on the bf16 grid."""
    g = torch.Generator().manual_seed(seed)
    W = 0.02 * torch.randn(m, n, generator=g)
    W *= (0.3 * torch.randn(m, 1, generator=g)).exp() * (0.3 * torch.randn(1, n, generator=g)).exp()
    r = max(1, min(m, n) // 8)
    U = torch.linalg.qr(torch.randn(m, r, generator=g)).Q
    V = torch.linalg.qr(torch.randn(n, r, generator=g)).Q
    s = 0.05 * (math.sqrt(m) + math.sqrt(n)) * torch.arange(1, r + 1) ** -0.55
    return (W + U * s @ V.T).bfloat16()


def updated(W: torch.Tensor, rms: float, seed: int = 1) -> torch.Tensor:
    """Half a decaying rank-16 update, half dense noise, stored in bf16 again."""
    g = torch.Generator().manual_seed(seed)
    r = min(16, *W.shape)
    L = torch.randn(W.shape[0], r, generator=g) * torch.arange(1, r + 1) ** -0.7
    L = L @ torch.randn(r, W.shape[1], generator=g)
    L *= rms / math.sqrt(2) / L.square().mean().sqrt()
    noise = torch.randn(W.shape, generator=g) * rms / math.sqrt(2)
    return (W.float() + L + noise).bfloat16()


def orthonormal(n: int, p: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, p, generator=g, dtype=DOUBLE)).Q


def turning(W: torch.Tensor, D: torch.Tensor, k: int, *, whole: bool = True) -> Turning:
    norm = float(torch.linalg.matrix_norm(D.double(), 2)) if bool(D.any()) else 0.0
    return turned_angles(project(singular_basis(W), D, k, whole=whole), spectral_norm=norm * 1.001)


def assert_true(found: Turning, W: torch.Tensor, Wt: torch.Tensor, k: int) -> None:
    """Every angle, every mean and the energy lost lie within what is stated."""
    U, s, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    Ut, _, Vth = torch.linalg.svd(Wt.double(), full_matrices=False)
    c = min(len(s), k + max(1, k // 8))
    # LAPACK's own vectors are right to about this
    gap = float(s[k - 1] - s[k]) if k < len(s) else float(s[-1])
    slack = 1e-14 * len(s) * float(s[0]) / max(gap, 1e-300)
    for side, old, new in ((found.left, U, Ut), (found.right, Vh.T, Vth.T)):
        angles = principal_angles(old[:, :k], new[:, :k])
        assert float((side.angles - angles).abs().max()) <= found.bound + slack
        assert abs(float((side.angles - angles).mean())) <= found.mean_bound + slack
        contained = principal_angles(old[:, :k], new[:, :c])
        error = abs(float((side.containment - contained).mean()))
        assert error <= found.containment_bound + slack
        shares = (old.T @ new[:, :k]).square().sum(1)
        lost = 1 - float(s.square() @ shares / s[:k].square().sum())
        assert abs(side.energy_lost - lost) <= found.energy_bound + 1e-13


@pytest.mark.parametrize("shape", [(96, 300), (300, 96), (160, 160)])
@pytest.mark.parametrize("rms", [3e-6, 1.5e-5, 1.5e-4, 5e-4])
def test_updates_of_rl_and_sft_size(shape: tuple[int, int], rms: float) -> None:
    W = weights(*shape)
    Wt = updated(W, rms)
    k = min(shape) // 8
    D = Wt.float() - W.float()
    found = turning(W, D, k)
    assert found.met
    assert found.mean_bound <= max(8 * RESOLUTION, 0.8 * float(found.left.angles.mean()))
    assert found.floor <= RESOLUTION
    assert_true(found, W, Wt, k)
    shift = spectral_shift(project(singular_basis(W), D, k))
    s = torch.linalg.svdvals(W.double())
    truth = float((torch.linalg.svdvals(Wt.double()) - s).norm() / s.norm())
    if shift.validity <= VALID:
        assert abs(shift.value - truth) <= shift.bound
    else:
        assert shift.bound == math.inf


def test_a_rest_larger_than_the_leading_block() -> None:
    """Where coarse products and sampled directions carry most of what is read."""
    W = weights(520, 700)
    for rms, accuracy in ((1e-6, 0.01), (1.5e-4, 0.05)):
        Wt = updated(W, rms)
        D = Wt.float() - W.float()
        for whole in (True, False):
            projection = project(singular_basis(W), D, 16, whole=whole)
            found = turned_angles(projection, spectral_norm=float(torch.linalg.matrix_norm(D, 2)))
            assert found.met
            assert_true(found, W, Wt, 16)
            shift = spectral_shift(projection)
            s = torch.linalg.svdvals(W.double())
            truth = float((torch.linalg.svdvals(Wt.double()) - s).norm() / s.norm())
            assert abs(shift.value - truth) <= min(shift.bound, accuracy * truth)


@pytest.mark.parametrize("angle", [1e-8, 1e-6, 1e-4, 1e-2, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(80, 120), (120, 80), (90, 90)])
def test_a_planted_rotation_is_recovered(shape: tuple[int, int], angle: float) -> None:
    p, k = min(shape), 8
    U, V = orthonormal(shape[0], p, 1), orthonormal(shape[1], p, 2)
    s = torch.linspace(1, 0.1, p, dtype=DOUBLE) + 2 * (torch.arange(p) < k)
    W = U * s @ V.T
    turn = torch.eye(p, dtype=DOUBLE)
    turn[2, 2] = turn[-1, -1] = math.cos(angle)
    turn[-1, 2], turn[2, -1] = math.sin(angle), -math.sin(angle)
    D = U @ (turn - torch.eye(p, dtype=DOUBLE)) * s @ V.T
    found = turning(W, D, k)
    if found.met:
        assert abs(float(found.left.angles[-1]) - angle) <= min(found.bound, RESOLUTION * 10)
        assert float(found.right.angles[-1]) <= found.bound + 1e-12
        assert_true(found, W, W + D, k)
    assert found.met or angle > 0.1


@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    scale=st.floats(-8, 0),
    rank=st.integers(1, 90),
    seed=st.integers(0, 10**6),
    divisor=st.integers(1, 10),
)
def test_whatever_is_met_is_true(
    shape: tuple[int, int], scale: float, rank: int, seed: int, divisor: int
) -> None:
    (m, n), p = shape, min(shape)
    k = max(1, p // divisor)
    s = torch.logspace(0, -2, p, dtype=DOUBLE)
    s[rank:] = 0
    W = orthonormal(m, p, seed) * s @ orthonormal(n, p, seed + 1).T
    g = torch.Generator().manual_seed(seed)
    D = (10**scale * torch.randn(m, n, generator=g, dtype=DOUBLE) / math.sqrt(m + n)).float()
    found = turning(W, D, k)
    if found.met:
        assert_true(found, W, W + D.double(), k)
    shift = spectral_shift(project(singular_basis(W), D, k))
    truth = float((torch.linalg.svdvals(W + D.double()) - s).norm() / s.norm())
    assert abs(shift.value - truth) <= shift.bound + 1e-14


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 5), (70, 200)])
def test_a_zero_update_reads_exactly_nothing(shape: tuple[int, int]) -> None:
    W, D = weights(*shape), torch.zeros(shape)
    for whole in (True, False):
        found = turning(W, D, 1, whole=whole)
        assert found.met
        assert found.bound == found.mean_bound == found.left.energy_lost == 0
        for side in (found.left, found.right):
            assert not bool(side.angles.any() or side.containment.any())
        shift = spectral_shift(project(singular_basis(W), D, 1, whole=whole))
        assert (shift.value, shift.bound, shift.validity) == (0, 0, 0)
    assert not bool(energy_inside(project(singular_basis(W), D, 1)).any())


def test_a_zero_anchor_is_not_met() -> None:
    W, D = torch.zeros(6, 4), torch.ones(6, 4)
    assert not turning(W, D, 2).met
    assert spectral_shift(project(singular_basis(W), D, 2)).bound == math.inf


def test_a_tie_at_the_boundary_is_not_met() -> None:
    W = torch.eye(100, dtype=DOUBLE)
    D = 1e-3 * torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    assert not turning(W, D, 10).met


def test_a_direction_that_rises_from_far_below_is_not_missed() -> None:
    """Decoupled from the leading block, so that no residual shows it."""
    s = torch.linspace(2, 1, 200, dtype=DOUBLE)
    D = torch.zeros(200, 200)
    D[150, 150] = 3
    W = torch.diag(s)
    found = turning(W, D, 8)
    assert not found.met


@pytest.mark.parametrize("exponent", [-120, -60, 60, 120])
def test_angles_do_not_depend_on_units(exponent: int) -> None:
    W = weights(80, 130)
    D = updated(W, 1e-5).float() - W.float()
    plain = turning(W.double(), D, 8)
    scaled = turning(torch.ldexp(W.double(), torch.tensor(exponent)), D * 2.0**exponent, 8)
    torch.testing.assert_close(plain.left.angles, scaled.left.angles, rtol=1e-4, atol=1e-9)
    shifts = [
        spectral_shift(project(singular_basis(A), B, 8)).value
        for A, B in ((W.double(), D), (W.double() * 2.0**exponent, D * 2.0**exponent))
    ]
    assert shifts[0] == pytest.approx(shifts[1], rel=1e-4)


def test_transposing_swaps_the_sides() -> None:
    W = weights(80, 200)
    D = updated(W, 1e-4).float() - W.float()
    one, other = turning(W, D, 10), turning(W.T, D.T, 10)
    torch.testing.assert_close(one.left.angles, other.right.angles, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(one.right.angles, other.left.angles, rtol=1e-5, atol=1e-9)
    a, b = (project(singular_basis(A), B, 10) for A, B in ((W, D), (W.T, D.T)))
    torch.testing.assert_close(energy_inside(a), energy_inside(b), rtol=1e-3, atol=0)
    assert spectral_shift(a).value == pytest.approx(spectral_shift(b).value, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (70, 200), (200, 70), (130, 130), (600, 900)])
def test_the_energy_curve(shape: tuple[int, int]) -> None:
    W = weights(*shape)
    D = updated(W, 1e-3).float() - W.float()
    U, _, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    squares = (U.T @ D.double() @ Vh.T).square()
    truth = squares.cumsum(0).cumsum(1).diagonal()
    basis = singular_basis(W)
    curve = energy_inside(project(basis, D, max(1, min(shape) // 8)))
    for found in (curve, coarse_energy_inside(basis, D)):
        assert float((found - truth).abs().max()) <= 2e-3 * float(D.square().sum())
    with pytest.raises(ValueError, match="whole"):
        energy_inside(project(singular_basis(W), D, 1, whole=False))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (40, 90), (90, 40), (50, 50)])
@pytest.mark.parametrize("smallest", [1e-2, 1e-7, 0.0])
def test_the_basis_reconstructs_its_matrix(shape: tuple[int, int], smallest: float) -> None:
    p = min(shape)
    s = torch.linspace(1, 0.2, p, dtype=DOUBLE)
    s[p // 2 :] *= smallest
    W = orthonormal(shape[0], p, 1) * s @ orthonormal(shape[1], p, 2).T
    basis = singular_basis(W, k_top=3)
    assert bool(((basis.s - s).abs() <= basis.s_bound).all())
    eye = torch.eye(p)
    for Q in (basis.U, basis.V):
        torch.testing.assert_close(Q.T @ Q, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        basis.U.double() * basis.s @ basis.V.T.double(), W, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(basis.U_top.float(), basis.U[:, :3])
    torch.testing.assert_close(basis.V_top.float(), basis.V[:, :3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_basis_of_any_stored_format(dtype: torch.dtype) -> None:
    W = weights(30, 50).to(dtype)
    basis = singular_basis(W)
    truth = torch.linalg.svdvals(W.double())
    assert bool(((basis.s - truth).abs() <= basis.s_bound).all())


@pytest.mark.parametrize("size", [3e38, 1e-39])
def test_the_basis_at_the_ends_of_bf16(size: float) -> None:
    W = (weights(20, 30).double() * size).bfloat16()
    basis = singular_basis(W)
    truth = torch.linalg.svdvals(W.double())
    assert bool(((basis.s - truth).abs() <= basis.s_bound).all())
