"""Updates that checkpoints hold as such: their thin factors, and what they leave as it was."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from offaxis.checkpoints.base import CheckpointReader, HoldsUpdates, LowRank
from offaxis.checkpoints.pairing import Pairing
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.views import Skipped
from offaxis.errors import CheckpointError

NOT_ADAPTED = "not adapted: as in the base"


class Place(NamedTuple):
    """One logical matrix of one checkpoint."""

    reader: CheckpointReader
    piece: Piece

    @property
    def is_unmerged(self) -> bool:
        """Whether the checkpoint holds an update of it, so that its sum is in no file."""
        reader = self.reader
        return isinstance(reader, HoldsUpdates) and reader.holding(self.piece.tensor) == "update"

    def since(self, before: "Place") -> LowRank | None:
        """The update from another checkpoint's matrix, where their formats tell its factors.

        One is the base of the other, or both hold updates of one base and differ by the factors of
        both.

        Returns:
            The factors; None where the update is no product of thin ones.
        """
        return self._from(before, LowRank.since)

    def moved_from(self, before: "Place") -> LowRank | None:
        """The step of each factor by itself from another checkpoint's, or from nothing at the base.

        Returns:
            The steps; None where `since` has no factors, or the rank has changed.
        """
        return self._from(before, LowRank.moved_from)

    def _from(
        self, before: "Place", compare: Callable[[LowRank, LowRank], LowRank | None]
    ) -> LowRank | None:
        """Its factors compared with another checkpoint's; as they are, from its base."""
        if not isinstance(self.reader, HoldsUpdates) or self.reader.base is None:
            return None
        base, own = self.reader.base.resolve(), self._update(self.reader)
        if own is None or before.reader.path.resolve() == base:
            return own
        other = before.reader
        if not isinstance(other, HoldsUpdates) or other.base is None:
            return None
        begun = before._update(other) if other.base.resolve() == base else None
        return None if begun is None else compare(own, begun)

    def is_as(self, before: "Place") -> bool:
        """Whether both are the same part of one base, by what they say of it."""
        first, second = _left_alone(before), _left_alone(self)
        return isinstance(self.reader, HoldsUpdates) and first == second and first is not None

    def _update(self, reader: HoldsUpdates) -> LowRank | None:
        """The factors of the part of the stored tensor that the matrix is."""
        piece = self.piece
        found = reader.update(piece.tensor, piece.entry)
        if found is None or piece.is_as_read:
            return found
        left, right = found[::-1] if piece.transposed else found
        return LowRank(left if piece.rows is None else piece.rows.of(left), right)


def _left_alone(place: Place) -> tuple[object, ...] | None:
    """Which matrix of which base it is; None where it has something of its own."""
    reader, piece = place
    if not isinstance(reader, HoldsUpdates):
        return reader.path.resolve(), piece
    is_left = reader.base is not None and reader.holding(piece.tensor) == "nothing"
    return (reader.base.resolve(), piece) if is_left and reader.base is not None else None


def adapted_alone(
    pairing: Pairing, anchor: CheckpointReader, currents: Sequence[CheckpointReader]
) -> Pairing:
    """The pairing without what every checkpoint leaves as it is in the anchor.

    An update that no adapter has is no update of norm 0 that a mean should count.

    Args:
        pairing: Of the checkpoints with the anchor.
        anchor: What updates are measured from.
        currents: The checkpoints, in the order of the pairing.

    Raises:
        CheckpointError: If that leaves no matrix.
    """
    left = [
        view
        for view, pieces in pairing.pieces.items()
        if all(
            piece is None or Place(reader, piece).is_as(Place(anchor, view.piece))
            for reader, piece in zip(currents, pieces, strict=True)
        )
    ]
    if not left:
        return pairing
    names = set(left)
    kept = {view: pieces for view, pieces in pairing.pieces.items() if view not in names}
    if not any(view.kind == "matrix" for view in kept):
        raise CheckpointError(
            str(currents[-1].path),
            expected="an adapter that changes a matrix",
            found="none that does",
            do="give the adapter of a later step",
        )
    skipped = [Skipped(view.label, NOT_ADAPTED) for view in left]
    told = {
        id(found): found._replace(without_weights=(*found.without_weights, *skipped))
        for found in pairing.coverages
    }
    return replace(pairing, pieces=kept, coverages=[told[id(c)] for c in pairing.coverages])
