"""One matrix of one checkpoint, whose weights are numbers."""

from torch import Tensor

from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.views import View
from offaxis.errors import CheckpointError
from offaxis.linalg import rounding
from offaxis.measurement.options import Storage

_STRETCH = 1 << 18  # entries looked at at a time


def read_matrix(
    reader: CheckpointReader, view: View, piece: Piece, storage: Storage = "stored"
) -> Tensor:
    """Read one matrix as stored, or as a bf16 file would have held it.

    Raises:
        CheckpointError: If it holds weights that are no numbers.
    """
    W = piece.read(reader).reshape(view.shape)
    if storage == "bf16":
        W = rounding.narrowed(W)
    bad = W.numel()
    for part in W.reshape(-1).split(_STRETCH):
        bad -= int(part.isfinite().sum())
    if bad:
        raise CheckpointError(
            f"tensor {view.label!r} in {reader.path}",
            expected="finite weights",
            found=f"{bad} of {W.numel()} entries NaN or infinite"
            + (" once cast to bfloat16" if storage == "bf16" else ""),
            do="find the step at which training diverged, and take checkpoints before it",
        )
    return W
