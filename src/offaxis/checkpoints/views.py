"""Which matrices a stored tensor holds, and what each of them does in the model."""

import math
import re
from typing import Literal, NamedTuple

from offaxis.checkpoints.base import TensorInfo

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_STACK_AXES = 3


Kind = Literal["matrix", "elements"]


class View(NamedTuple):
    """One matrix of a checkpoint: a stored tensor, or one entry of a stack of matrices.

    What is no matrix (norms, biases, convolutions) is a view of its elements, a column of them.
    """

    tensor: str
    view: str
    entry: int | None
    rows: int
    cols: int
    dtype: str
    layer: int | None
    role: str
    kind: Kind = "matrix"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.cols

    @property
    def numel(self) -> int:
        """How many weights it holds."""
        return self.rows * self.cols

    @property
    def label(self) -> str:
        """The view's name for people and for file names."""
        return f"{self.tensor}[{self.view}]" if self.view else self.tensor


class Skipped(NamedTuple):
    """A stored tensor that is not read, and why."""

    tensor: str
    reason: str


def views(info: TensorInfo) -> list[View] | Skipped:
    """List the matrices in one stored tensor, or view its elements where it holds none.

    Stacks of three axes (fused experts) are split into one view per entry, `expert.3`. Rows are
    taken as stored: the output side in linear layers; formats that store the transpose (GPT-2's
    Conv1D, some fused experts) have left and right exchanged.
    """
    place = layer_and_role(info.name)
    if 0 in info.shape:
        return Skipped(info.name, "empty")
    if len(info.shape) == 2:
        rows, cols = info.shape
        return [View(info.name, "", None, rows, cols, info.dtype, *place)]
    if len(info.shape) == _STACK_AXES and min(info.shape[1:]) > 1:
        count, rows, cols = info.shape
        return [
            View(info.name, f"expert.{i}", i, rows, cols, info.dtype, *place) for i in range(count)
        ]
    return [View(info.name, "", None, math.prod(info.shape), 1, info.dtype, *place, "elements")]


def layer_and_role(name: str) -> tuple[int | None, str]:
    """Read the layer number and the role (`q_proj`, `down_proj`, ...) off a tensor's name."""
    match = _LAYER.search(name)
    parts = [part for part in name.split(".") if part not in ("weight", "bias")]
    return (int(match[1]) if match else None), parts[-1] if parts else name
