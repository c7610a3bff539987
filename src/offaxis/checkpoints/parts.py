"""A tensor put together from the parts that processes saved of it."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.errors import CheckpointError


class Part(NamedTuple):
    """A box of a tensor: where it begins, how large it is, and how it is read."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        """How many entries it holds."""
        return prod(self.sizes)


def require_whole(where: str, shape: tuple[int, ...], parts: Sequence[Part]) -> None:
    """Check that parts make up a tensor, by their sizes alone.

    Args:
        where: Which tensor, of which checkpoint.
        shape: Its shape.
        parts: Boxes of it, no two of which begin at the same place.

    Raises:
        CheckpointError: If one of them leaves the tensor, or they are more or less than it.
    """
    for part in parts:
        if not _lies_within(part, shape):
            raise _broken(
                where,
                f"parts within shape {list(shape)}",
                f"one of {list(part.sizes)} entries at {list(part.offsets)}",
            )
    held = sum(part.numel for part in parts)
    if held != prod(shape) or len({part.offsets for part in parts}) < len(parts):
        raise _broken(
            where,
            f"parts that make up shape {list(shape)}, {prod(shape):,} entries",
            f"{len(parts)} part(s) of {held:,} entries",
        )


def joined(
    where: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    parts: Sequence[Part],
    index: int | None = None,
) -> Tensor:
    """Put a tensor together, or entry `index` of its first axis; one part is held at a time.

    Args:
        where: Which tensor, of which checkpoint.
        shape: Its shape.
        dtype: What it was saved in.
        parts: Boxes that make it up; those that the entry does not touch are not read.
        index: An entry of the first axis.

    Raises:
        CheckpointError: If a part is not what it was said to be.
    """
    start, stop = (0, shape[0] if shape else 1) if index is None else (index, index + 1)
    whole = torch.zeros((stop - start, *shape[1:]), dtype=dtype)
    for part in parts:
        first = part.offsets[0] if shape else 0
        low, high = max(start, first), min(stop, first + (part.sizes[0] if shape else 1))
        if low >= high or part.numel == 0:
            continue
        box = _loaded(where, part, dtype).reshape(part.sizes or (1,))
        boxes = zip(part.offsets[1:], part.sizes[1:], strict=True)
        place = (slice(low - start, high - start), *(slice(o, o + n) for o, n in boxes))
        whole[place] = box[low - first : high - first]
    return whole.reshape(shape) if index is None else whole[0]


def _loaded(where: str, part: Part, dtype: torch.dtype) -> Tensor:
    box = part.load()
    if tuple(box.shape) != part.sizes or box.dtype != dtype or box.layout != torch.strided:
        raise _broken(
            where,
            f"a part of shape {list(part.sizes)} in {dtype}",
            f"one of shape {list(box.shape)} in {box.dtype}",
        )
    return box


def _lies_within(part: Part, shape: tuple[int, ...]) -> bool:
    return len(part.offsets) == len(part.sizes) == len(shape) and all(
        min(offset, size) >= 0 and offset + size <= length
        for offset, size, length in zip(part.offsets, part.sizes, shape, strict=True)
    )


def _broken(where: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        where,
        expected=expected,
        found=found,
        do="fetch what is missing, or save the checkpoint again: its parts do not belong together",
    )
