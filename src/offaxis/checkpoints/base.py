"""What every checkpoint format offers: names, shapes, dtypes, and one tensor or slice at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor


class TensorInfo(NamedTuple):
    """What the header says of one stored tensor; `dtype` is torch's name, as `bfloat16`."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@runtime_checkable
class CheckpointReader(Protocol):
    """Reads one checkpoint. A new format is one new file with this interface."""

    @property
    def path(self) -> Path:
        """The folder that was opened."""

    def files(self) -> Sequence[Path]:
        """The files that hold the weights: as long as they stay the same, so does the digest."""

    def tensors(self) -> dict[str, TensorInfo]:
        """Everything stored, by name, from headers alone."""

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a stored tensor, or entry `index` of its first axis, in its stored dtype.

        Raises:
            CheckpointError: If the bytes cannot be read.
        """

    def digest(self) -> str:
        """Return a hash of the weight files, equal for equal files only."""


class LowRank(NamedTuple):
    """An update as the product of two thin factors: dW = left right'."""

    left: Float64[Tensor, "m r"]
    right: Float64[Tensor, "n r"]

    def since(self, before: "LowRank") -> "LowRank":
        """The update from another one of the same matrix to this one, of at most both ranks."""
        if all(torch.equal(a, b) for a, b in zip(self, before, strict=True)):
            return LowRank(self.left[:, :0], self.right[:, :0])
        left = torch.cat([self.left, before.left], 1)
        return LowRank(left, torch.cat([self.right, -before.right], 1))

    def moved_from(self, before: "LowRank") -> "LowRank | None":
        """The step of each factor by itself; None from factors of other shapes."""
        if self.left.shape != before.left.shape or self.right.shape != before.right.shape:
            return None
        return LowRank(self.left - before.left, self.right - before.right)


Holding = Literal["nothing", "tensor", "update"]
"""What a checkpoint of updates has of a tensor of its base: nothing, which leaves it as it is; a
tensor in its place; or an update, which is added when the tensor is read."""


@runtime_checkable
class HoldsUpdates(CheckpointReader, Protocol):
    """A checkpoint that says how it differs from its base, and has the base for the rest."""

    @property
    def base(self) -> Path | None:
        """The folder of the base; None where it was opened without, and cannot be read."""

    def holding(self, name: str) -> Holding:
        """What it has of a tensor."""

    def update(self, name: str, index: int | None = None) -> LowRank | None:
        """The update of a tensor, or of entry `index` of its first axis, relative to the base.

        Of rank 0 where it holds nothing; None where the update is no product of thin factors.
        """


@runtime_checkable
class LeavesOut(Protocol):
    """A reader of folders that hold more than a model's weights."""

    def left_out(self) -> dict[str, str]:
        """What is stored beside the weights and not offered, by name, with the reason."""


def left_out(reader: CheckpointReader) -> dict[str, str]:
    """What a checkpoint holds beside its weights, with the reason; nothing in most formats."""
    return reader.left_out() if isinstance(reader, LeavesOut) else {}
