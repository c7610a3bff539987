"""Principal angles between subspaces, right from 1e-9 rad to pi/2."""

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.errors import NumericsError

ORTHONORMALITY = 1e-10
_HALF = 0.5  # cos^2 of 45 degrees, where the two forms are equally well conditioned


def principal_angles(
    Q_a: Float64[Tensor, "n k_a"], Q_b: Float64[Tensor, "n k_b"]
) -> Float64[Tensor, " k"]:
    r"""Return the principal angles between two column spaces.

    With $\sigma_i$ the singular values of $Q_a^\top Q_b$, the angles satisfy
    $\cos\theta_i = \sigma_i$. Angles below 45 degrees are taken from the sine, the singular values
    of $(I - Q_a Q_a^\top) Q_b$, whose rounding error stays at machine precision where that of the
    cosine grows to its root.

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
    C = Q_a.T @ Q_b
    cosines = torch.linalg.svdvals(C).clamp(max=1)
    sines = torch.linalg.svdvals(Q_b - Q_a @ C).flip(0).clamp(max=1)
    sines = torch.nn.functional.pad(sines, (cosines.numel() - sines.numel(), 0))
    return torch.where(cosines.square() > _HALF, sines.arcsin(), cosines.arccos())


def _require_orthonormal(name: str, Q: Float64[Tensor, "n k"]) -> None:
    defect = (Q.T @ Q - torch.eye(Q.shape[1], dtype=Q.dtype)).abs().max().item()
    if defect > ORTHONORMALITY:
        raise NumericsError(
            f"principal_angles, {name}",
            expected=f"columns orthonormal to {ORTHONORMALITY:g}",
            found=f"a defect of {defect:.2g}",
            do="orthonormalise the basis first (torch.linalg.qr)",
        )
