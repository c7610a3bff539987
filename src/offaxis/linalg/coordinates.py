"""Masks of single coordinates: which entries of a matrix may move."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from offaxis.linalg.basis import singular_basis
from offaxis.linalg.rounding import narrowed


def largest_entries(score: Float[Tensor, "m n"], count: int) -> Bool[Tensor, "m n"]:
    """Return a mask of exactly `count` entries of largest score; of a tie, the first in row order.

    Args:
        score: What to rank by.
        count: How many entries, in [0, m*n].

    Example:
        >>> largest_entries(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 3).tolist()
        [[True, True], [False, True]]
    """
    if count == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    threshold = score.flatten().kthvalue(score.numel() - count + 1).values
    above, tied = score > threshold, (score == threshold).flatten()
    left = count - int(above.sum())
    return above | (tied & (tied.cumsum(0) <= left)).view_as(above)


def visibly_changed(start: Float[Tensor, "m n"], end: Float[Tensor, "m n"]) -> Bool[Tensor, "m n"]:
    """Return where two matrices differ in bfloat16: the update mask.

    Zeros of either sign are equal.

    Source:
        arXiv:2606.07082, section 3.1.
    """
    return narrowed(start) != narrowed(end)


def principal_entries(W: Float[Tensor, "m n"], count: int, rank: int) -> Bool[Tensor, "m n"]:
    """Return the `count` entries of largest magnitude in the best rank-`rank` approximation of W.

    Source:
        LIFT, arXiv:2506.00772; arXiv:2511.08567, section 4.2.
    """
    basis = singular_basis(W, k_top=min(rank, *W.shape))
    values = basis.s[: basis.U_top.shape[1]]
    return largest_entries((basis.U_top * values @ basis.V_top.T).abs(), count)


def low_magnitude_entries(W: Float[Tensor, "m n"], count: int) -> Bool[Tensor, "m n"]:
    """Return the `count` entries of smallest magnitude."""
    return largest_entries(-W.abs(), count)


def random_entries(rows: int, cols: int, count: int, generator: Generator) -> Bool[Tensor, "m n"]:
    """Return a uniformly drawn set of `count` entries of a `rows` x `cols` matrix."""
    chosen = torch.zeros(rows * cols, dtype=torch.bool)
    chosen[torch.randperm(rows * cols, generator=generator)[:count]] = True
    return chosen.view(rows, cols)
