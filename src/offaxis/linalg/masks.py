"""Masks that hold an exact fraction of a matrix, ties shared out."""

import math

from jaxtyping import Float64
from torch import Tensor


def top_fraction(score: Float64[Tensor, "m n"], alpha: float) -> Float64[Tensor, "m n"]:
    """Return weights in [0, 1] that select the `alpha` share of entries of largest score.

    bf16 weights tie at the threshold; the entries of a tie share what is left, so that the weights
    sum to alpha*m*n whatever the ties.

    Args:
        score: The quantity to rank by.
        alpha: The share to select, in [0, 1].

    Returns:
        1 above the threshold, 0 below, one common fraction on it.
    """
    wanted = alpha * score.numel()
    rank = min(max(math.ceil(wanted), 1), score.numel())
    threshold = score.flatten().kthvalue(score.numel() - rank + 1).values
    above, tied = score > threshold, score == threshold
    share = (wanted - int(above.sum())) / int(tied.sum())
    return above.double() + share * tied.double()


def bottom_fraction(score: Float64[Tensor, "m n"], alpha: float) -> Float64[Tensor, "m n"]:
    """Return weights in [0, 1] that select the `alpha` share of entries of smallest score."""
    return top_fraction(-score, alpha)
