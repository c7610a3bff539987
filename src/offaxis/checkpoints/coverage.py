"""How much of a model two checkpoints have in common, and what of it was not paired, and why."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from offaxis.checkpoints.views import Skipped, View
from offaxis.errors import CoverageError

LEAST = 0.99
"""The share of each side's weights that must be paired by default."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=[.\]])")


class Match(NamedTuple):
    """A view of the anchor and the checkpoint's view of the same weights."""

    anchor: View
    current: View


class Coverage(NamedTuple):
    """What of an anchor and one checkpoint is paired, and what is not.

    Attributes:
        alike: Pairs of one shape.
        resized: Pairs with rows for tokens, compared on the rows that both have.
        unlike: Pairs by name that are not measured, as their shapes differ.
        only_in_anchor: What the checkpoint has no counterpart of.
        only_in_checkpoint: What the anchor has no counterpart of.
        without_weights: Tensors that are not read, and why.
        tied: Which head is which embedding, which alone is measured.
        notes: What else there is to know.
        way_out: What would pair more, where that is known.
    """

    alike: Sequence[Match]
    resized: Sequence[Match]
    unlike: Sequence[Match]
    only_in_anchor: Sequence[View]
    only_in_checkpoint: Sequence[View]
    without_weights: Sequence[Skipped]
    tied: str | None
    notes: Sequence[str]
    way_out: str | None

    @property
    def matches(self) -> Sequence[Match]:
        """What is measured."""
        return (*self.alike, *self.resized)

    @property
    def skipped(self) -> list[Skipped]:
        """What is not measured although it has a counterpart or is no weight, and why."""
        return [*self.without_weights, *map(_unlike, self.unlike)]

    @property
    def shares(self) -> tuple[float, float]:
        """Which share of the anchor's weights is measured, and of the checkpoint's.

        Tied heads count once, and what holds no weights does not count. A matrix compared on common
        rows counts as a whole.
        """
        unlike = [match.anchor for match in self.unlike], [match.current for match in self.unlike]
        return (
            _share((m.anchor for m in self.matches), (*self.only_in_anchor, *unlike[0])),
            _share((m.current for m in self.matches), (*self.only_in_checkpoint, *unlike[1])),
        )

    def renamed(self) -> dict[tuple[str, str], int]:
        """How often which name of the anchor stands for which other one, with `*` for numbers."""
        return Counter(
            (_NUMBER.sub("*", old.label), _NUMBER.sub("*", new.label))
            for old, new in self.matches
            if old.label != new.label
        )


def _share(paired: Iterable[View], left: Iterable[View]) -> float:
    measured, missed = (sum(view.numel for view in views) for views in (paired, left))
    return measured / (measured + missed) if measured else 0.0


def _unlike(match: Match) -> Skipped:
    old, new = (list(view.piece.shape) for view in match)
    return Skipped(match.anchor.label, f"shape {old} in the anchor, {new} in the checkpoint")


def require(found: Coverage, least: float, anchor: Path, current: Path) -> None:
    """Refuse to measure less of a model than was asked for.

    Raises:
        CoverageError: If a smaller share of either side's weights is paired, or nothing is.
    """
    if found.matches and min(found.shares) >= least:
        return
    of_anchor, of_checkpoint = found.shares
    lists = {
        "only in the anchor": found.only_in_anchor,
        "only in the checkpoint": found.only_in_checkpoint,
        "of another shape": [match.anchor for match in found.unlike],
    }
    raise CoverageError(
        f"{current}, measured from {anchor}",
        expected=f"{least:.4g} of the weights of each paired with the other's"
        if found.matches
        else "a tensor that both have",
        found=f"{of_anchor:.4g} of the anchor's, {of_checkpoint:.4g} of the checkpoint's"
        + "".join(f"; {what}: {named(views)}" for what, views in lists.items() if views),
        do=(f"{found.way_out}; or " if found.way_out else "")
        + "give checkpoints of one model"
        + (", or measure what they share with --min-coverage" if found.matches else ""),
    )


def named(views: Sequence[View], most: int = 3) -> str:
    """The first few labels, and how many more there are."""
    shown = ", ".join(repr(view.label) for view in views[:most])
    return shown + (f" and {len(views) - most} more" if len(views) > most else "")
