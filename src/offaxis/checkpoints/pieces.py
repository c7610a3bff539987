"""Where one logical matrix lies in a checkpoint, and how it is cut out of what is stored there."""

import math
from typing import NamedTuple

from torch import Tensor

from offaxis.checkpoints.base import CheckpointReader


class Rows(NamedTuple):
    """Some rows of every block of rows: `length` of them from `start`, in blocks of `period`.

    One block as high as the matrix gives a range; a block a head, the queries of all heads.
    """

    start: int
    length: int
    period: int

    def of(self, W: Tensor) -> Tensor:
        """Return these rows of a matrix, or these entries of a vector."""
        blocks = W.reshape(-1, self.period, *W.shape[1:])
        return blocks[:, self.start : self.start + self.length].reshape(-1, *W.shape[1:])


class Piece(NamedTuple):
    """One logical matrix as it is stored: a tensor, or a part of one.

    Attributes:
        tensor: The stored tensor's name.
        dtype: torch's name of its dtype.
        shape: What is read: the tensor, or one entry of its first axis.
        entry: Which entry of the first axis; None for the whole tensor.
        transposed: Whether it is stored as inputs x outputs.
        rows: Which rows, counted as outputs; None for all of them.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    entry: int | None = None
    transposed: bool = False
    rows: Rows | None = None

    @property
    def numel_read(self) -> int:
        """How many weights are read for it."""
        return math.prod(self.shape)

    @property
    def how(self) -> str:
        """How it is cut out, in short; empty for what is stored as it is."""
        turned = "transposed" if self.transposed else ""
        return turned + ("" if self.rows is None else "rows {}+{} of {}".format(*self.rows))

    @property
    def is_whole(self) -> bool:
        """Whether it is a stored tensor as it is."""
        return self.entry is None and self.is_as_read

    @property
    def is_as_read(self) -> bool:
        """Whether what is read is the matrix itself."""
        return self.rows is None and not self.transposed

    def cut(self, stored: Tensor) -> Tensor:
        """Return the matrix from what was read for it, on its own and contiguous."""
        if self.is_as_read:
            return stored
        W = stored.mT if self.transposed else stored
        return (W if self.rows is None else self.rows.of(W)).clone().contiguous()

    def read(self, reader: CheckpointReader) -> Tensor:
        """Read the matrix, or the vector, in its stored dtype.

        Raises:
            CheckpointError: If the bytes cannot be read.
        """
        return self.cut(reader.read(self.tensor, self.entry))
