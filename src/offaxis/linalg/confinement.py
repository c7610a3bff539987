"""The subspaces that updates are kept in, and how much of an update lies outside of one."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64
from torch import Generator, Tensor

from offaxis.errors import NumericsError
from offaxis.linalg.basis import singular_basis
from offaxis.linalg.orthonormal import orthonormalised
from offaxis.linalg.shards import placed_as, whole

_NOTHING = 1e-12  # of s_1; a direction below it was completed, not found


class Subspace(NamedTuple):
    """Directions of a matrix's outputs (columns of U) and of its inputs (columns of V).

    Both are orthonormal to the rounding of float32, in which the weights themselves are held.
    """

    U: Float32[Tensor, "m r"]
    V: Float32[Tensor, "n r"]


def leading_subspace(D: Float64[Tensor, "m n"], rank: int, where: str) -> Subspace:
    """Return the leading singular vectors of a matrix, their signs fixed.

    AdamW in the coordinates of a basis depends on which basis of the subspace it is: the singular
    one, in falling order of the values, and of each pair (u, v) and (-u, -v) the one whose v has
    its entry of largest magnitude (the first of several) positive.

    Args:
        D: An update or a gradient.
        rank: How many directions.
        where: The matrix, for the message of an error.

    Raises:
        NumericsError: If D has fewer than `rank` directions: singular values above 1e-12 of the
            largest.

    Example:
        >>> leading_subspace(torch.tensor([[0.0, -2.0], [1.0, 0.0]]).double(), 1, "").V.T.tolist()
        [[0.0, 1.0]]
    """
    if rank <= min(D.shape) and bool(D.any()):
        basis = singular_basis(D, k_top=rank)
        if float(basis.s[rank - 1]) > _NOTHING * float(basis.s[0]):
            U, V = basis.U_top, basis.V_top
            largest = V.abs().argmax(0, keepdim=True)
            signs = torch.where(V.gather(0, largest) < 0, -1.0, 1.0)
            return Subspace((U * signs).float(), (V * signs).float())
    raise NumericsError(
        where,
        expected=f"a matrix with {rank} directions to keep updates in",
        found="a matrix of zeros" if not bool(D.any()) else f"fewer, at shape {list(D.shape)}",
        do="lower the rank, leave the matrix out by `matrices`, or take another source",
    )


def random_subspace(rows: int, cols: int, rank: int, generator: Generator) -> Subspace:
    """Return uniformly distributed (Haar) subspaces of outputs and of inputs.

    Args:
        rows: Outputs of the matrix.
        cols: Inputs of the matrix.
        rank: Directions of each, at most min(rows, cols).
        generator: Source of the draws, on the CPU.

    Source:
        Mezzadri 2007, arXiv:math-ph/0609050: QR of a Gaussian matrix with R's diagonal positive.
    """
    U, V = (
        orthonormalised(torch.randn(size, rank, generator=generator, dtype=torch.float64))
        for size in (rows, cols)
    )
    return Subspace(U.float(), V.float())


def projected(
    D: Float[Tensor, "m n"], V: Float[Tensor, "n r"], U: Float[Tensor, "m r"] | None = None
) -> Float[Tensor, "m n"]:
    r"""Return $D V V^\top$, or $U U^\top D V V^\top$ where U is given; D may be sharded."""
    inner = D @ placed_as(D, V)
    if U is not None:
        inner = placed_as(D, U @ whole(placed_as(D, U).T @ inner))
    outcome: Tensor = inner @ placed_as(D, V).T
    return outcome


def core_of(
    D: Float[Tensor, "m n"], U: Float[Tensor, "m r"], V: Float[Tensor, "n r"]
) -> Float[Tensor, "r r"]:
    r"""Return $U^\top D V$; where D is sharded by rows, the sum over its shards."""
    return whole(placed_as(D, U).T @ (D @ placed_as(D, V)))
