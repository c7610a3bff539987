"""How much of an update lies along the anchor's top directions, on one side or on both."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg.basis import Basis
from offaxis.linalg.products import product


class Sides(NamedTuple):
    r"""Shares of an update's energy for k = 1 ... p, and their means under random signs.

    Attributes:
        left: $\lVert U_k^\top D\rVert_F^2/\lVert D\rVert_F^2$.
        right: $\lVert DV_k\rVert_F^2/\lVert D\rVert_F^2$.
        joint: $\lVert U_k^\top DV_k\rVert_F^2/\lVert D\rVert_F^2$.
        left_signs: The mean of `left` over all signs of the entries of D.
        right_signs: Likewise of `right`.
        joint_signs: Likewise of `joint`.
        bound: Absolute error of each, from float32 vectors and products.
    """

    left: Float64[Tensor, " p"]
    right: Float64[Tensor, " p"]
    joint: Float64[Tensor, " p"]
    left_signs: Float64[Tensor, " p"]
    right_signs: Float64[Tensor, " p"]
    joint_signs: Float64[Tensor, " p"]
    bound: float


def sides_of(basis: Basis, D: Float[Tensor, "m n"], norm: float) -> Sides:
    r"""Return the energy of an update along the anchor's leading directions.

    Under random signs the entries of D stay where they are and no two of them agree, so that the
    mean energy along $U_k$ is $\sum_{ij}h_iD_{ij}^2$ with $h_i=\sum_{l\le k}U_{il}^2$: in closed
    form what the sizes of rows and columns alone give.

    Args:
        basis: The singular basis of the anchor.
        D: The update, not zero.
        norm: Its Frobenius norm.

    Source:
        arXiv:2606.13657, the projection energies; their means under signs are derived here.
    """
    m, n = D.shape
    unit = norm / (m * n) ** 0.5
    E = (D.double() / unit).float()
    U, V = basis.U, basis.V
    left, right = product(U.T, E), product(E, V)
    joint = product(left, V)
    squares, U2, V2 = E.square(), U.square(), V.square()
    spread = product(product(U2.T, squares), V2)
    energies = (
        left.double().square().sum(1),
        right.double().square().sum(0),
        U2.double().T @ squares.sum(1, dtype=torch.float64),
        V2.double().T @ squares.sum(0, dtype=torch.float64),
    )
    one_sided = [(energy.cumsum(0) / (m * n)).clamp(max=1) for energy in energies]
    both = [
        (corner.cumsum(0).cumsum(1).diagonal() / (m * n)).clamp(max=1)
        for corner in (joint.double().square(), spread.double())
    ]
    bound = 16 * torch.finfo(torch.float32).eps * len(joint) ** 0.5
    return Sides(one_sided[0], one_sided[1], both[0], one_sided[2], one_sided[3], both[1], bound)
