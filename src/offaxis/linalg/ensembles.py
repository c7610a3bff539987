"""Random updates that keep some of an update and destroy the rest."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float32, Float64
from torch import Generator, Tensor

_TINY = torch.finfo(torch.float64).tiny


def sign_flip(D: Float64[Tensor, "m n"], generator: Generator) -> Float64[Tensor, "m n"]:
    """Multiply every entry by its own random sign: magnitudes stay in place, structure goes.

    Keeps each entry's variance, hence every row, column and rounding profile.

    Source:
        Hong, Sheng & Dobriban, "FlipPA", arXiv:2012.02985.
    """
    signs = torch.randint(0, 2, D.shape, generator=generator, dtype=torch.int8)
    return torch.where(signs.bool(), D, -D)


def permutation(D: Float64[Tensor, "m n"], generator: Generator) -> Float64[Tensor, "m n"]:
    """Permute the entries inside the matrix: their law stays, their places go.

    Source:
        WeightWatcher's `randomize`; Buja & Eyuboglu 1992, doi:10.1207/s15327906mbr2704_2.
    """
    order = torch.randperm(D.numel(), generator=generator)
    return D.flatten()[order].view_as(D)


def random_walk(
    row_rms: Float64[Tensor, " m"],
    col_rms: Float64[Tensor, " n"],
    step_norms: Sequence[float],
    generator: Generator,
) -> Iterator[Float32[Tensor, "m n"]]:
    r"""Yield the positions of a walk with independent steps of the given sizes.

    Step i has entries $r_a c_b\,z_{ab}$, z standard normal, scaled to the i-th norm in
    expectation. Nothing but the profile of rows and columns and the sizes of the steps is kept, so
    that what its path's subspaces share with the last one is what nesting alone gives.

    Args:
        row_rms: Root mean square of the rows of the final update.
        col_rms: Root mean square of its columns.
        step_norms: Frobenius norms of the increments between successive checkpoints.
        generator: Source of the draws.

    Yields:
        The position after each step over the largest of the norms, as no subspace knows its size;
        one buffer, which the next step moves on.
    """
    rows, cols = (scale / scale.norm().clamp(min=_TINY) for scale in (row_rms, col_rms))
    profile = torch.outer(rows, cols).float()
    position = torch.zeros_like(profile)
    largest = max(step_norms, default=0.0) or 1.0
    for norm in step_norms:
        step = torch.randn(profile.shape, generator=generator)
        position += step.mul_(profile).mul_(norm / largest)
        yield position
