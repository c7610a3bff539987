"""Updates that checkpoints hold as thin factors: since the anchor, and since each other."""

from offaxis.checkpoints.base import CheckpointReader, HoldsUpdates, LowRank
from offaxis.checkpoints.views import View


def since(anchor: CheckpointReader, current: CheckpointReader, view: View) -> LowRank | None:
    """The update of a matrix from one checkpoint to another, where their formats tell its factors.

    Two adapters of one base differ by the factors of both.

    Args:
        anchor: Where it begins: the base of the other, or another adapter of that base.
        current: Where it ends.
        view: The matrix.

    Returns:
        The factors; None where the update is no product of thin ones.
    """
    if not isinstance(current, HoldsUpdates) or current.base is None:
        return None
    base, own = current.base.resolve(), current.update(view.tensor, view.entry)
    if own is None or anchor.path.resolve() == base:
        return own
    if not isinstance(anchor, HoldsUpdates) or anchor.base is None:
        return None
    before = anchor.update(view.tensor, view.entry) if anchor.base.resolve() == base else None
    return None if before is None else own.since(before)


def is_unmerged(current: CheckpointReader, view: View) -> bool:
    """Whether the checkpoint holds an update of a matrix, so that its sum is in no file."""
    return isinstance(current, HoldsUpdates) and current.holding(view.tensor) == "update"
