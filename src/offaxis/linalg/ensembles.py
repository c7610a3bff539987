"""Random updates that keep some of an update and destroy the rest."""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from numpy.typing import NDArray
from torch import Generator, Tensor

from offaxis.linalg.elementwise import Kernel, load

_TINY = torch.finfo(torch.float64).tiny
_BLOCK = 1 << 15  # a multiple of 64
_STEP = 1 << 16  # entries of a walk moved at a time


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


def random_factors(
    shape: tuple[int, int], rank: int, norm: float, generator: Generator
) -> tuple[Float64[Tensor, "m r"], Float64[Tensor, "n r"]]:
    r"""Return Gaussian factors L and R of which $LR^\top$ has the given Frobenius norm.

    Of an update by thin factors they keep shapes and size. Its directions are uniform, those of one
    side independent of the other's, and none of them is preferred.

    Source:
        The update of Hu et al., "LoRA", arXiv:2106.09685, with both factors as one of them begins.
    """
    left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in shape)
    size = float(((left.T @ left) * (right.T @ right)).sum().sqrt())
    return left * (norm / size), right


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
    position = torch.zeros(len(rows), len(cols))
    largest = max(step_norms, default=0.0) or 1.0
    height = 16 * max(1, _STEP // (16 * len(cols)))  # torch draws normal numbers by sixteen
    for norm in step_norms:
        for here, scale in zip(position.split(height), rows.split(height), strict=True):
            step = torch.randn(here.shape, generator=generator)
            here.add_(step.mul_(torch.outer(scale, cols).float()).mul_(norm / largest))
        yield position


def factor_walk(
    left_steps: Sequence[Float64[Tensor, " m"]],
    right_steps: Sequence[Float64[Tensor, " n"]],
    rank: int,
    generator: Generator,
) -> Iterator[tuple[Float64[Tensor, "m r"], Float64[Tensor, "n r"]]]:
    r"""Yield the positions (L, R) of a walk of two thin factors, whose update is $LR^\top$.

    Every row of every step keeps its length and points in a uniform direction of the r dimensions
    that the factors share, independently of all others. Of any walk whose steps have rows without
    a preferred direction (Gaussian entries, rows of any sizes) this is the law given those
    lengths: such a walk and its draws can be exchanged. Of rank 1 it gives every entry of a step
    its own sign.

    Args:
        left_steps: Root mean squares of the rows of L's steps, the first one from nothing.
        right_steps: Those of R's; where R starts at random, as in LoRA, the first holds its start.
        rank: The factors' columns, r.
        generator: Source of the draws.

    Yields:
        Both factors after each step; all zero as long as no step has a size.

    Source:
        The update of Hu et al., "LoRA", arXiv:2106.09685; directions as in Langsrud 2005, "Rotation
        tests", doi:10.1007/s11222-005-4789-5.
    """
    sides = [scales[0].new_zeros(len(scales[0]), rank) for scales in (left_steps, right_steps)]
    for scales in zip(left_steps, right_steps, strict=True):
        sides = [
            side + rank**0.5 * scale[:, None] * _directions(len(scale), rank, generator)
            for side, scale in zip(sides, scales, strict=True)
        ]
        yield sides[0], sides[1]


def _directions(rows: int, rank: int, generator: Generator) -> Float64[Tensor, "m r"]:
    found = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    found /= found.norm(dim=1, keepdim=True).clamp(min=_TINY)
    return found


def flip_signs_(D: Float[Tensor, "m n"], seed: int, *, kernel: Kernel = "compiled") -> None:
    """Give every entry its own random sign, in place: `sign_flip` without a copy.

    The signs depend on the seed and the number of entries alone. A uniform sign times any
    independent sign is uniform: flips of one buffer in turn, by independent seeds, are independent
    draws, and the buffer need not be restored between them.

    Args:
        D: A contiguous update, float32 or float64, on any device.
        seed: 64 bits.
        kernel: `compiled` runs numba where it is installed, `plain` never: the result is the same.
    """
    flat, random = D.view(-1), np.random.SFC64(seed)
    loops = _loops(kernel, flat)
    if loops is not None:
        unsigned = np.uint32 if flat.dtype == torch.float32 else np.uint64
        loops.flip(flat.numpy().view(unsigned), random.state["state"]["state"])
        return
    for start in range(0, flat.numel(), _BLOCK):
        part = flat[start : start + _BLOCK]
        words = random.random_raw(-(-part.numel() // 64)).astype("<u8", copy=False)
        bits = np.unpackbits(words.view(np.uint8), count=part.numel(), bitorder="little")
        part *= torch.from_numpy(1 - 2 * bits.view(np.int8)).to(part)


def permute_(D: Float[Tensor, "m n"], seed: int, *, kernel: Kernel = "compiled") -> None:
    """Permute the entries inside the matrix, in place: `permutation` without a copy.

    The permutation depends on the seed and the number of entries alone. Successive permutations of
    one buffer by independent seeds are independent uniform draws.

    Args:
        D: A contiguous update, float32 or float64, on any device (shuffled on the CPU).
        seed: 64 bits.
        kernel: `compiled` runs numba where it is installed, `plain` never: the result is the same.
    """
    values, random = D.view(-1).cpu(), np.random.SFC64(seed)
    loops = _loops(kernel, values)
    if loops is not None:
        loops.shuffle(values.numpy(), random.state["state"]["state"])
    else:
        _shuffle(values.numpy(), random)
    if values.data_ptr() != D.data_ptr():
        D.view(-1).copy_(values)


def _shuffle(values: NDArray[Any], random: np.random.SFC64) -> None:
    """As `shuffling.shuffle`, entry by entry: a second for a million of them."""
    entries = values.data
    for last in range(len(values) - 1, 0, -_BLOCK):
        count = min(_BLOCK, last)
        words = random.random_raw(count)
        n = np.arange(last + 1, last + 1 - count, -1, dtype=np.uint64)
        low = (words & 0xFFFFFFFF) * n >> 32
        places = ((words >> 32) * n + low >> 32).tolist()
        for here, there in zip(range(last, last - count, -1), places, strict=True):
            entries[here], entries[there] = entries[there], entries[here]


def _loops(kernel: Kernel, flat: Tensor) -> ModuleType | None:
    return load("shuffling") if kernel == "compiled" and flat.device.type == "cpu" else None
