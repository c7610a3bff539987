"""What every checkpoint format offers: names, shapes, dtypes, and one tensor or slice at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

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


@runtime_checkable
class LeavesOut(Protocol):
    """A reader of folders that hold more than a model's weights."""

    def left_out(self) -> dict[str, str]:
        """What is stored beside the weights and not offered, by name, with the reason."""


def left_out(reader: CheckpointReader) -> dict[str, str]:
    """What a checkpoint holds beside its weights, with the reason; nothing in most formats."""
    return reader.left_out() if isinstance(reader, LeavesOut) else {}
