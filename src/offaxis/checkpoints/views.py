"""Which logical matrices a stored tensor holds, and what each of them does in the model."""

import math
import re
from typing import Literal, NamedTuple

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.names.layouts import PLAIN, Layout, experts_layout, layout_of
from offaxis.checkpoints.names.logical import key_of
from offaxis.checkpoints.names.model import Model
from offaxis.checkpoints.names.wrappers import unwrapped
from offaxis.checkpoints.pieces import Piece, Rows

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_MASK = re.compile(r"\.(?:attn|attention)\.(?:masked_)?bias$")
_BIASES = re.compile(r"(?:^|\.)experts\.\w*bias$")
_STACK_AXES = 3


Kind = Literal["matrix", "elements"]


class View(NamedTuple):
    """One logical matrix of a checkpoint: a stored tensor, or a part of it, as `piece` says.

    A fused tensor has a view for each of its matrices (`q`, `up`), a stack one for each entry
    (`expert.3`), a stack of fused ones both (`expert.3.up`). What is no matrix (norms, biases,
    convolutions) is a view of its elements, a column of them.
    """

    tensor: str
    view: str
    rows: int
    cols: int
    layer: int | None
    role: str
    piece: Piece
    kind: Kind = "matrix"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: outputs and inputs, wherever the layout is known."""
        return self.rows, self.cols

    @property
    def numel(self) -> int:
        """How many weights it holds."""
        return self.rows * self.cols

    @property
    def dtype(self) -> str:
        """Torch's name of the dtype it is stored in."""
        return self.piece.dtype

    @property
    def label(self) -> str:
        """The view's name for people and for file names."""
        return f"{self.tensor}[{self.view}]" if self.view else self.tensor

    @property
    def key(self) -> str:
        """The name that its random numbers are drawn under, however it is stored."""
        return key_of(self.tensor, self.view)


class Skipped(NamedTuple):
    """A stored tensor that is not read, and why."""

    tensor: str
    reason: str


def views(info: TensorInfo, model: Model | None = None) -> list[View] | Skipped:
    """List the matrices in one stored tensor, or view its elements where it holds none.

    Rows are outputs wherever name and config tell the layout (linear layers, GPT-2's Conv1D, fused
    experts of either orientation); else they are taken as stored.
    """
    shape = info.shape
    if 0 in shape:
        return Skipped(info.name, "empty")
    if len(shape) != 1 and _MASK.search(info.name):
        return Skipped(info.name, "a mask of attention: not weights")
    leaf = _leaf(unwrapped(info.name))
    if _is_stack(info):
        entry = shape[1:]
        layout = experts_layout(leaf, entry, model)
        return [
            view
            for i in range(shape[0])
            for view in _laid_out(info, layout, Piece(info.name, info.dtype, entry, entry=i))
        ]
    layout = layout_of(leaf, shape, model) if len(shape) in (1, 2) else PLAIN
    return _laid_out(info, layout, Piece(info.name, info.dtype, shape))


def _is_stack(info: TensorInfo) -> bool:
    """Whether it holds the matrices of some experts, or their biases: vectors, though a table."""
    if len(info.shape) == 2:
        return _BIASES.search(unwrapped(info.name)) is not None
    return len(info.shape) == _STACK_AXES and min(info.shape[1:]) > 1


def _laid_out(info: TensorInfo, layout: Layout, whole: Piece) -> list[View]:
    """The views of a tensor, or of one entry of a stack."""
    layer, role = layer_and_role(unwrapped(info.name))
    entry = "" if whole.entry is None else f"expert.{whole.entry}"
    role = role.removesuffix("_bias") if entry else role
    held = whole._replace(transposed=layout.transposed)
    if not layout.parts:
        return [_view(info.name, entry, layer, role, held)]
    return [
        _view(
            info.name,
            f"{entry}.{part.view}" if entry else part.view,
            layer,
            part.role,
            held._replace(rows=part.rows),
        )
        for part in layout.parts
    ]


def _view(tensor: str, view: str, layer: int | None, role: str, piece: Piece) -> View:
    if len(piece.shape) == 2:
        outputs, inputs = piece.shape[::-1] if piece.transposed else piece.shape
        return View(tensor, view, _chosen(piece.rows, outputs), inputs, layer, role, piece)
    count = _chosen(piece.rows, math.prod(piece.shape))
    return View(tensor, view, count, 1, layer, role, piece, "elements")


def _chosen(rows: Rows | None, of: int) -> int:
    return of if rows is None else of // rows.period * rows.length


def first_rows(view: View, count: int) -> View:
    """The view of a whole tensor's first rows, where it has more than its counterpart."""
    if count == view.rows:
        return view
    piece = view.piece._replace(rows=Rows(0, count, view.rows))
    return view._replace(view=f"rows.{count}", rows=count, piece=piece)


def layer_and_role(name: str) -> tuple[int | None, str]:
    """Read the layer number and the role (`q_proj`, `down_proj`, ...) off a tensor's name."""
    match = _LAYER.search(name)
    return (int(match[1]) if match else None), _leaf(name)


def _leaf(name: str) -> str:
    parts = [part for part in name.split(".") if part not in ("weight", "bias")]
    return parts[-1] if parts else name
