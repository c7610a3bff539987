"""Which matrix of a checkpoint answers to which matrix of its anchor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from offaxis.checkpoints.base import CheckpointReader, left_out
from offaxis.checkpoints.coverage import Coverage
from offaxis.checkpoints.joining import join
from offaxis.checkpoints.names.model import model_at
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.sides import Contents, Side, contents_of, side_of
from offaxis.checkpoints.views import Skipped, View, first_rows
from offaxis.errors import CheckpointError


@dataclass(frozen=True)
class Pairing:
    """The checkpoints of one run against their anchor.

    Attributes:
        pieces: By view of the anchor, where each checkpoint holds it; None where it does not.
        coverages: Of each checkpoint.
    """

    pieces: Mapping[View, Sequence[Piece | None]]
    coverages: Sequence[Coverage]

    @cached_property
    def matrices(self) -> list[View]:
        """What is measured as matrices."""
        return [view for view in self.pieces if view.kind == "matrix"]

    @cached_property
    def elements(self) -> list[View]:
        """What is read by its elements alone."""
        return [view for view in self.pieces if view.kind == "elements"]


def pair(anchor: CheckpointReader, currents: Sequence[CheckpointReader]) -> Pairing:
    """Pair the checkpoints of a run with their anchor, each on its own.

    Names decide, and what is known of how names change: wrappers, prefixes, fused layers, stacked
    experts. Shapes alone never do. What has no counterpart is listed, and no error.

    Args:
        anchor: What updates are measured from.
        currents: The checkpoints. One without a config is read by the anchor's, and the anchor by
            the first that has one.

    Raises:
        CheckpointError: If a checkpoint cannot be read or holds no matrix, two of its tensors stand
            for one name, two ways of pairing are equally good, or a matrix has no plain
            floating-point dtype.
    """
    models = [model_at(reader.path) for reader in (anchor, *currents)]
    known = next((model for model in models if model is not None), None)
    old = side_of(anchor.path, contents_of(anchor, models[0] or known))
    _require_matrices(old)
    joined: dict[Contents, Coverage] = {}
    coverages = []
    for reader, model in zip(currents, models[1:], strict=True):
        contents = contents_of(reader, model or known)
        if contents not in joined:
            joined[contents] = join(old, side_of(reader.path, contents))
        beside = left_out(anchor) | left_out(reader)
        coverages.append(_with(joined[contents], beside) if beside else joined[contents])
    return Pairing(_pieces(old, coverages), coverages)


def _with(found: Coverage, beside: Mapping[str, str]) -> Coverage:
    """The coverage with what a side stores beside its weights."""
    more = [Skipped(name, reason) for name, reason in beside.items()]
    return found._replace(without_weights=(*found.without_weights, *more))


def _pieces(old: Side, coverages: Sequence[Coverage]) -> dict[View, Sequence[Piece | None]]:
    """Where every checkpoint holds each view, of which only the rows that all of them have."""
    each = {id(coverage): coverage for coverage in coverages}
    held = {key: {m.anchor.label: m.current for m in c.matches} for key, c in each.items()}
    found: dict[View, Sequence[Piece | None]] = {}
    for label, view in old.views.items():
        there = {key: current for key, views in held.items() if (current := views.get(label))}
        if there:
            common = min(view.rows, *(current.rows for current in there.values()))
            pieces = {key: first_rows(current, common).piece for key, current in there.items()}
            found[first_rows(view, common)] = [pieces.get(id(c)) for c in coverages]
    return found


def _require_matrices(side: Side) -> None:
    if not any(view.kind == "matrix" for view in side.views.values()):
        raise CheckpointError(
            str(side.path),
            expected="at least one weight matrix",
            found="none",
            do="give the folder of a model",
        )
