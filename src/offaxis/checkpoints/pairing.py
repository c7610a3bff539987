"""Which matrix of a checkpoint answers to which matrix of its anchor."""

from typing import NamedTuple

from offaxis.checkpoints.base import CheckpointReader, TensorInfo, left_out
from offaxis.checkpoints.views import Skipped, View, views
from offaxis.errors import CheckpointError

FLOATS = ("float64", "float32", "float16", "bfloat16")


class Pairing(NamedTuple):
    """The matrices that both sides hold, what is read by its elements alone, and what is not."""

    matrices: list[View]
    elements: list[View]
    skipped: list[Skipped]


def pair(anchor: CheckpointReader, current: CheckpointReader) -> Pairing:
    """Pair two checkpoints by the names of their tensors.

    Raises:
        CheckpointError: If a tensor is missing on one side, shapes differ, or a dtype is not a
            plain floating-point one.
    """
    old, new = anchor.tensors(), current.tensors()
    _require_same_names(anchor, current, old, new)
    found: list[View] = []
    beside = left_out(anchor) | left_out(current)
    skipped = [Skipped(name, reason) for name, reason in beside.items()]
    for name, info in old.items():
        other = new[name]
        if info.shape != other.shape:
            raise CheckpointError(
                f"tensor {name!r} in {current.path}",
                expected=f"shape {list(info.shape)}, as in the anchor {anchor.path}",
                found=f"shape {list(other.shape)}",
                do="give the anchor that this checkpoint was trained from",
            )
        held = views(info)
        if isinstance(held, Skipped):
            skipped.append(held)
        elif held[0].kind == "elements" and info.dtype not in FLOATS:
            skipped.append(Skipped(name, f"{info.dtype}: not weights"))
        else:
            _require_float(anchor, info)
            _require_float(current, other)
            found.extend(held)
    matrices = [view for view in found if view.kind == "matrix"]
    if not matrices:
        raise CheckpointError(
            str(anchor.path),
            expected="at least one weight matrix",
            found="none",
            do="give the folder of a model",
        )
    return Pairing(matrices, [view for view in found if view.kind == "elements"], skipped)


def _require_same_names(
    anchor: CheckpointReader,
    current: CheckpointReader,
    old: dict[str, TensorInfo],
    new: dict[str, TensorInfo],
) -> None:
    for side, other, names in (
        (current, anchor, sorted(old.keys() - new.keys())),
        (anchor, current, sorted(new.keys() - old.keys())),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                str(side.path),
                expected=f"tensor {names[0]!r}{more}, as in {other.path}",
                found="no such tensor",
                do="give checkpoints of one model, saved the same way",
            )


def _require_float(reader: CheckpointReader, info: TensorInfo) -> None:
    if info.dtype not in FLOATS:
        raise CheckpointError(
            f"tensor {info.name!r} in {reader.path}",
            expected=f"a dtype out of {', '.join(FLOATS)}",
            found=info.dtype,
            do="give an unquantised checkpoint: the difference to a quantised one is its noise",
        )
