r"""The current top subspace, refined from the anchor's singular basis.

In that basis the current matrix's Gram is $\Lambda + E$ with $\Lambda = S^2$ and
$E = PS + SP^\top + KK^\top$, in which nothing cancels: angles keep their relative accuracy,
however small. The leading t directions are solved exactly, in float64; what the others add is a
correction preconditioned by the anchor's eigenvalues, repeated until its error is small.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from offaxis.linalg.coarse import COARSE, coarse_product
from offaxis.linalg.products import product
from offaxis.linalg.projection import Projection
from offaxis.linalg.tridiagonal import all_vectors_

NEGLIGIBLE = 0.01
"""Size of an update, in units of the anchor's k-th value, whose square needs no precision."""

_EPS = torch.finfo(torch.float64).eps
_SINGLE = torch.finfo(torch.float32).eps
_SAFETY = 3.0
_BOUNDARY = 16  # columns next to the boundary that a sampled sweep always takes


class Refinement(NamedTuple):
    """The current top subspace of the shorter side, and the errors that remain in it.

    Attributes:
        leading: Its coordinates along the anchor's leading t directions, a column for each of the
            r = k + max(1, k // 8) singular values, descending.
        rest: Those along the others. Leading and rest together are orthonormal.
        theta: The squares of the current singular values, in the projection's unit.
        error: Frobenius norm of the error of the leading k columns, estimated.
        floor: The part of it that rounding leaves.
        contraction: By how much the last correction was smaller than what it corrected.
        separated: Whether no direction outside the leading t reaches the top k.
    """

    leading: Float64[Tensor, "t r"]
    rest: Float32[Tensor, "u r"]
    theta: Float64[Tensor, " r"]
    error: float
    floor: float
    contraction: float
    separated: bool


def refine(
    projection: Projection,
    *,
    spectral_norm: float,
    tolerance: float = 0.01,
    max_sweeps: int = 6,
) -> Refinement:
    r"""Return the current top subspace of the shorter side by preconditioned Rayleigh-Ritz steps.

    The trial space is the anchor's leading t directions together with the corrections
    $Z_{ji} = r_{ji}/(\theta_i-\lambda_j)$ of the top ones in all others. A first correction is
    judged on a sample of its columns; only where that leaves more than `tolerance` of the turning
    are whole sweeps made.

    Args:
        projection: The update in the anchor's basis.
        spectral_norm: An upper bound of the update's largest singular value.
        tolerance: The error to stop at, as a share of the turning itself.
        max_sweeps: Most whole sweeps.

    Source:
        Davidson 1975, doi:10.1016/0021-9991(75)90065-0; Stewart & Sun 1990, section V.2.
    """
    problem = _problem(projection, spectral_norm)
    k, r = projection.k, projection.containing
    C, Z = problem.identity(r), problem.first(r)
    EZ = torch.zeros_like(Z)
    C, Z, EZ, theta = problem.ritz(C, Z, EZ)
    error = contraction = 0.0
    if Z.shape[0]:
        columns = _columns(k).to(Z.device)
        before = float(Z[:, :k].norm())
        for sweep in range(max_sweeps + 1):
            step, applied = problem.correction(C, Z, theta, columns)
            missing = product(Z.T, applied - EZ[:, columns])
            coupled = problem.boundary(C, step, missing, theta, columns)
            size = _extrapolated(step, columns, k)
            contraction = min(size / before, 1.0) if size > 0 else 0.0
            before = size
            Z = Z.index_add(1, columns, step)
            gained = contraction if sweep else 1.0
            error = math.hypot(size, coupled) * gained / max(1 - contraction, 1e-3)
            turning = math.hypot(float(Z[:, :k].norm()), float(C[k:, :k].norm()))
            error += COARSE * NEGLIGIBLE * turning
            if error <= tolerance * turning or contraction == 1:
                break
            if sweep:
                EZ = applied
            columns = torch.arange(r, device=Z.device)
            C, Z, EZ, theta = problem.ritz(C, Z, EZ)
    floor = problem.rounding(Z, theta, k)
    separated = problem.is_separated(theta, k, spectral_norm)
    return Refinement(C, Z, theta, _SAFETY * error + floor, floor, contraction, separated)


def _columns(k: int) -> Tensor:
    """Some columns: those next to the boundary, and an even sample of those before it."""
    first = max(0, k - _BOUNDARY)
    spaced = torch.arange(0, first, max(1, -(-first // _BOUNDARY)))
    return torch.cat([spaced, torch.arange(first, k)])


def _extrapolated(step: Tensor, columns: Tensor, k: int) -> float:
    """The Frobenius norm over the leading k columns, from those that were computed."""
    squares = step.double().square().sum(0)
    first = max(0, k - _BOUNDARY)
    before = squares[columns < first]
    inside = squares[(columns >= first) & (columns < k)]
    share = first / max(before.numel(), 1)
    return math.sqrt(float(before.sum()) * share + float(inside.sum()))


class _Problem(NamedTuple):
    """The eigenproblem of the current Gram, split into the leading t directions and the rest."""

    projection: Projection
    lam: Float64[Tensor, " p"]
    H: Float64[Tensor, "t t"]
    coupling: Float32[Tensor, "u t"]
    shifted: Float64[Tensor, " u"]

    def identity(self, r: int) -> Float64[Tensor, "t r"]:
        return torch.eye(self.H.shape[0], r, dtype=self.H.dtype, device=self.H.device)

    def first(self, r: int) -> Float32[Tensor, "u r"]:
        return self.coupling[:, :r] / self.gaps(self.H.diagonal()[:r])

    def gaps(self, theta: Float64[Tensor, " c"]) -> Float32[Tensor, "u c"]:
        """theta_i - lambda_j, the latter shifted to first order, kept away from zero."""
        gap = (theta - self.shifted[:, None]).clamp(min=_SINGLE * float(self.lam[0]) + 1e-300)
        return gap.float()

    def ritz(self, C: Tensor, Z: Tensor, EZ: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best top subspace inside span[C; Z] and the complement of C among the leading t."""
        t, r = C.shape
        whole = torch.linalg.qr(C, mode="complete").Q
        B = torch.cat([C, whole[:, r:]], 1)
        H = product(product(B.T, self.H), B)
        N = product(B.T, B)
        if Z.shape[0]:
            across = product(B.T, product(self.coupling.T, Z).double())
            H[:, :r] += across
            H[:r] += across.T
            weighted = self.lam[t:, None].float() * Z + EZ
            inner = product(Z.T, weighted).double()
            H[:r, :r] += (inner + inner.T) / 2
            N[:r, :r] += product(Z.T, Z).double()
        L = torch.linalg.cholesky(N)
        H = torch.linalg.solve_triangular(L, H, upper=False)
        H = torch.linalg.solve_triangular(L, H.T, upper=False)
        theta, Q = all_vectors_(((H + H.T) / 2).contiguous())
        Q = torch.linalg.solve_triangular(L.T, Q.flip(1)[:, :r], upper=True)
        turn = Q[:r].float()
        if not Z.shape[0]:
            return product(B, Q), Z, EZ, theta.flip(0)[:r]
        return product(B, Q), product(Z, turn), product(EZ, turn), theta.flip(0)[:r]

    def correction(
        self, C: Tensor, Z: Tensor, theta: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The preconditioned residual of some Ritz vectors, and E applied to their rest."""
        z = Z[:, columns]
        applied = self.apply(z)
        t = self.H.shape[0]
        own = (self.lam[t:, None] - theta[columns]).float() * z
        residual = own + product(self.coupling, C[:, columns].float()) + applied
        return residual / self.gaps(theta[columns]), applied

    def apply(self, z: Float32[Tensor, "u c"]) -> Float32[Tensor, "u c"]:
        """E, rest to rest, by products with the update itself."""
        update, t = self.projection, self.H.shape[0]
        U, V = update.short[:, t:], update.long[:, t:]
        s = update.s[t:, None].float()
        F = product(update.D.T, product(U, z))
        G = product(V.T, F)
        return product(U.T, product(update.D, product(V, s * z) + F)) + s * G

    def boundary(
        self, C: Tensor, step: Tensor, missing: Tensor, theta: Tensor, columns: Tensor
    ) -> float:
        """What a step would turn the top k towards the next Ritz vectors, Frobenius norm."""
        k = self.projection.k
        inside = columns < k
        moved = product(C[:, k:].T, product(self.coupling.T, step[:, inside]).double())
        moved += missing[k:, inside].double()
        gaps = (theta[columns[inside]] - theta[k:, None]).clamp(min=1e-300)
        return float((moved / gaps).norm())

    def rounding(self, Z: Tensor, theta: Tensor, k: int) -> float:
        """What float32 leaves in the angles, those to the longer side's null space included."""
        update = self.projection
        if update.rounding > _SINGLE:
            size = float(update.K_top.norm()) / math.sqrt(update.K_top.numel())
        else:
            size = max(float(update.P_top.norm()), float(update.P_left.norm()))
            size /= math.sqrt(self.lam.numel())
        noise = 8 * update.rounding * size * theta[:k].clamp(min=0).sqrt()
        noise += 8 * _EPS * float(self.lam[0])
        beyond = theta.new_zeros(min(1, update.D.shape[1] - update.D.shape[0]))
        below = torch.cat([theta[k:], self.lam[len(theta) :], beyond])
        gaps = (theta[:k, None] - below).clamp(min=_EPS * float(self.lam[0]) + 1e-300)
        return float((noise[:, None] / gaps).norm()) + 4 * _SINGLE * float(Z[:, :k].norm())

    def is_separated(self, theta: Tensor, k: int, spectral_norm: float) -> bool:
        """Whether the rest stays below the k-th value, by Weyl or else by a few Lanczos steps."""
        t = self.H.shape[0]
        if k >= len(theta) and t < self.lam.numel():
            return False
        if t == self.lam.numel():
            return True
        least = math.sqrt(max(float(theta[k - 1]), 0.0))
        if float(self.projection.s[t]) + spectral_norm / self.projection.unit < least:
            return True
        return self._largest_outside() < least**2

    def _largest_outside(self, steps: int = 16) -> float:
        """An estimate from below of the largest eigenvalue of the rest, with its residual added."""
        t = self.H.shape[0]
        lam = self.lam[t:, None].float()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(lam.shape[0], 1, generator=generator).to(lam.device)
        basis = [x / x.norm()]
        diagonal: list[float] = []
        beside: list[float] = []
        for _ in range(min(steps, lam.shape[0])):
            y = lam * basis[-1] + self.apply(basis[-1])
            diagonal.append(float((basis[-1] * y).sum()))
            Q = torch.cat(basis, 1)
            for _ in range(2):
                y = y - product(Q, product(Q.T, y))
            beside.append(float(y.norm()))
            if beside[-1] <= _SINGLE * float(self.lam[0]):
                break
            basis.append(y / beside[-1])
        T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        inner = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(T + torch.diag(inner, 1) + torch.diag(inner, -1))
        return float(values[-1]) + beside[len(diagonal) - 1] * float(vectors[-1, -1].abs())


def _problem(update: Projection, spectral_norm: float) -> _Problem:
    t, s = update.t, update.s
    lam = s.square()
    inner = update.P_top[:, :t].double() * s[:t]
    H = inner + inner.T + product(update.K_top, update.K_top.T).double()
    H = (H + H.T) / 2 + torch.diag(lam[:t])
    single = s.float()
    coupling = update.P_left[t:] * single[:t] + single[t:, None] * update.P_top[:, t:].T
    is_small = spectral_norm <= NEGLIGIBLE * float(s[update.k - 1]) * update.unit
    second = coarse_product if is_small and t < s.numel() else product
    coupling += second(update.short[:, t:].T, second(update.D, update.K_top.T.contiguous()))
    shifted = lam[t:] + 2 * s[t:] * update.diagonal[t:]
    return _Problem(update, lam, H, coupling, shifted)
