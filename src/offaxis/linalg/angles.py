"""Principal angles between subspaces, right from 1e-9 rad to pi/2."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.errors import NumericsError
from offaxis.linalg.gram import blocks, scale_exponent
from offaxis.linalg.products import in_units, product, unit_of
from offaxis.linalg.tridiagonal import eigenvalues

ORTHONORMALITY = 1e-10
RESIDUAL = 4 * torch.finfo(torch.float64).eps ** 0.5
"""Error of a sine from the square of what is left, as a share of the largest sine."""
_HALF = 0.5  # cos^2 of 45 degrees, where the two forms are equally well conditioned


def principal_angles(
    Q_a: Float64[Tensor, "n k_a"], Q_b: Float64[Tensor, "n k_b"]
) -> Float64[Tensor, " k"]:
    r"""Return the principal angles between two column spaces.

    With $\sigma_i$ the singular values of $Q_a^\top Q_b$, the angles satisfy
    $\cos\theta_i = \sigma_i$. Angles below 45 degrees are taken from the sine, the singular values
    of $(I - Q_a Q_a^\top) Q_b$, whose rounding error stays at machine precision where that of the
    cosine grows to its root. Between subspaces of different dimension they are the angles of the
    smaller one into the larger: 0 throughout if it is contained, which is how containment of a
    top-k subspace in a slightly larger one is read.

    Args:
        Q_a: Orthonormal basis, columns are the basis vectors.
        Q_b: Orthonormal basis of another subspace of the same space.

    Returns:
        The min(k_a, k_b) angles in radians, ascending, in [0, pi/2].

    Raises:
        NumericsError: If a basis is not orthonormal to 1e-10.

    Example:
        >>> axes = torch.eye(3, dtype=torch.float64)
        >>> principal_angles(axes[:, :2], axes[:, 1:])
        tensor([0.0000, 1.5708], dtype=torch.float64)

    Source:
        Björck & Golub 1973, doi:10.1090/S0025-5718-1973-0348991-3;
        Knyazev & Argentati 2002, doi:10.1137/S1064827500377332.
    """
    for name, Q in (("Q_a", Q_a), ("Q_b", Q_b)):
        _require_orthonormal(name, Q)
    if Q_a.shape[1] < Q_b.shape[1]:
        Q_a, Q_b = Q_b, Q_a
    C = product(Q_a.T, Q_b)
    # R has the residual's singular values, and k of them where the space has room for fewer
    R = torch.linalg.qr(Q_b - product(Q_a, C), mode="r").R
    sines = torch.linalg.svdvals(R).flip(0).clamp(max=1)
    sines = torch.nn.functional.pad(sines, (Q_b.shape[1] - sines.numel(), 0))
    angles: Tensor = sines.arcsin()
    if sines.numel() == 0 or float(sines[-1].square()) < _HALF:
        return angles
    cosines = torch.linalg.svdvals(C).clamp(max=1)
    return torch.where(cosines.square() > _HALF, angles, cosines.arccos())


class Turned(NamedTuple):
    """How one side's top-k subspace turned.

    Attributes:
        angles: Principal angles between the old and the new subspace, ascending.
        contained: Those of the old one into the slightly larger new one.
        energy_lost: The share of the matrix's top-k energy that the new subspace misses.
    """

    angles: Float64[Tensor, " k"]
    contained: Float64[Tensor, " k"]
    energy_lost: float


def turned(
    W: Float[Tensor, "m n"],
    s: Float64[Tensor, " k"],
    old: Float64[Tensor, "m k"],
    new: Float64[Tensor, "m r"],
) -> Turned:
    r"""Return angles, containment and energy lost of a matrix's top-k left singular subspace.

    Three products serve all. Sines come from the eigenvalues of what one space leaves of the other,
    squared: right to 4 sqrt(eps) of the largest.

    The energy lost is $L = 1-\mathrm{tr}(Q^\top WW^\top Q)/\sum_{i\le k}s_i^2$, in [0, 1], with Q
    the first k columns of `new`. Unlike the largest angle it needs no gap behind $s_k$. Computed
    without cancellation,
    $\sum_i s_i^2\lVert(I-QQ^\top)u_i\rVert^2-\lVert W^\top(I-UU^\top)Q\rVert_F^2$: right to
    100 eps plus the error of U, both times the sum of the squared sines between the spaces. 0 for
    the zero matrix.

    Args:
        W: The matrix; transposed, for its right subspace.
        s: Its k largest singular values, descending.
        old: Their left singular vectors, as columns.
        new: Orthonormal basis of the larger space to judge, whose first k columns are the smaller.

    Source:
        Björck & Golub 1973, doi:10.1090/S0025-5718-1973-0348991-3; Fan 1951,
        doi:10.1073/pnas.37.11.760: no space of dimension k holds more energy than the top-k
        singular subspace.
    """
    k = old.shape[1]
    C = product(old.T, new)
    beyond = new[:, :k] - product(old, C[:, :k])
    outside = old - product(new, C.T)
    angles, contained = _from_residual(beyond, C[:, :k]), _from_residual(outside, C)
    if s[0] == 0:
        return Turned(angles, contained, 0.0)
    missed = outside + product(new[:, k:], C[:, k:].T)
    weights = (s / s[0]).square()
    lost = float(weights @ missed.square().sum(0)) - _image_energy(W, beyond, float(s[0]))
    return Turned(angles, contained, min(max(lost / float(weights.sum()), 0.0), 1.0))


def _from_residual(E: Float64[Tensor, "n k"], C: Float64[Tensor, "a b"]) -> Float64[Tensor, " k"]:
    """Angles from what one basis leaves of the other; large ones from their inner products."""
    sines = eigenvalues(product(E.T, E)).flip(0).clamp(0, 1).sqrt()
    angles: Tensor = sines.arcsin()
    if float(sines[-1].square()) < _HALF:
        return angles
    cosines = torch.linalg.svdvals(C).clamp(max=1)
    return torch.where(cosines.square() > _HALF, angles, cosines.arccos())


def _image_energy(W: Float[Tensor, "m n"], E: Float64[Tensor, "m k"], unit: float) -> float:
    r"""The squared norm of $W^\top E$ over unit^2, without a float64 copy of W.

    In float32 for 16-bit formats: the energy is of second order in E, and so is its rounding.
    """
    if W.dtype.itemsize <= 2:
        held, tame = E.float(), unit_of(unit)
        total = held.new_zeros(W.shape[1], held.shape[1])
        for rows in _stretches(W.shape[0]):
            total += product(in_units(W[rows], tame, torch.float32).T, held[rows])
        return float((total.double() / (unit / tame)).square().sum())
    exponent = scale_exponent(W)
    unit *= 2.0**-exponent
    if W.shape[0] <= W.shape[1]:
        images = (product(block.T, E) / unit for _, block in blocks(W, exponent))
        return float(sum(image.square().sum() for image in images))
    image = sum(product(block, E[part]) for part, block in blocks(W, exponent))
    return float((torch.as_tensor(image) / unit).square().sum())


def _stretches(length: int, size: int = 1024) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _require_orthonormal(name: str, Q: Float64[Tensor, "n k"]) -> None:
    defect = (
        (product(Q.T, Q) - torch.eye(Q.shape[1], dtype=Q.dtype, device=Q.device)).abs().max().item()
    )
    if defect > ORTHONORMALITY:
        raise NumericsError(
            f"principal_angles, {name}",
            expected=f"columns orthonormal to {ORTHONORMALITY:g}",
            found=f"a defect of {defect:.2g}",
            do="orthonormalise the basis first (torch.linalg.qr)",
        )
