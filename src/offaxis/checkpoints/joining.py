"""A tensor put together from the pieces that processes saved of it."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.errors import CheckpointError


class Piece(NamedTuple):
    """A box of a tensor: where it begins, how large it is, and how it is read."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        """How many entries it holds."""
        return prod(self.sizes)


def require_whole(where: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> None:
    """Check that pieces make up a tensor, by their sizes alone.

    Args:
        where: Which tensor, of which checkpoint.
        shape: Its shape.
        pieces: Boxes of it, no two of which begin at the same place.

    Raises:
        CheckpointError: If one of them leaves the tensor, or they are more or less than it.
    """
    for piece in pieces:
        if not _lies_within(piece, shape):
            raise _broken(
                where,
                f"pieces within shape {list(shape)}",
                f"one of {list(piece.sizes)} entries at {list(piece.offsets)}",
            )
    held = sum(piece.numel for piece in pieces)
    if held != prod(shape) or len({piece.offsets for piece in pieces}) < len(pieces):
        raise _broken(
            where,
            f"pieces that make up shape {list(shape)}, {prod(shape):,} entries",
            f"{len(pieces)} piece(s) of {held:,} entries",
        )


def joined(
    where: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    pieces: Sequence[Piece],
    index: int | None = None,
) -> Tensor:
    """Put a tensor together, or entry `index` of its first axis; one piece is held at a time.

    Args:
        where: Which tensor, of which checkpoint.
        shape: Its shape.
        dtype: What it was saved in.
        pieces: Boxes that make it up; those that the entry does not touch are not read.
        index: An entry of the first axis.

    Raises:
        CheckpointError: If a piece is not what it was said to be.
    """
    start, stop = (0, shape[0] if shape else 1) if index is None else (index, index + 1)
    whole = torch.zeros((stop - start, *shape[1:]), dtype=dtype)
    for piece in pieces:
        first = piece.offsets[0] if shape else 0
        low, high = max(start, first), min(stop, first + (piece.sizes[0] if shape else 1))
        if low >= high or piece.numel == 0:
            continue
        part = _loaded(where, piece, dtype).reshape(piece.sizes or (1,))
        boxes = zip(piece.offsets[1:], piece.sizes[1:], strict=True)
        place = (slice(low - start, high - start), *(slice(o, o + n) for o, n in boxes))
        whole[place] = part[low - first : high - first]
    return whole.reshape(shape) if index is None else whole[0]


def _loaded(where: str, piece: Piece, dtype: torch.dtype) -> Tensor:
    part = piece.load()
    if tuple(part.shape) != piece.sizes or part.dtype != dtype or part.layout != torch.strided:
        raise _broken(
            where,
            f"a piece of shape {list(piece.sizes)} in {dtype}",
            f"one of shape {list(part.shape)} in {part.dtype}",
        )
    return part


def _lies_within(piece: Piece, shape: tuple[int, ...]) -> bool:
    return len(piece.offsets) == len(piece.sizes) == len(shape) and all(
        0 <= offset and 0 <= size and offset + size <= length
        for offset, size, length in zip(piece.offsets, piece.sizes, shape, strict=True)
    )


def _broken(where: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        where,
        expected=expected,
        found=found,
        do="fetch what is missing, or save the checkpoint again: its pieces do not belong together",
    )
