"""One update, every reading, every null."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from offaxis.diagnostics.base import Diagnostic, NullReading, Reading, Settings
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.draws import Draws, drawn_nulls, noise_edge
from offaxis.engine.facts import Stored, facts_of
from offaxis.engine.seeds import seed_for
from offaxis.engine.spikes import above_edge


class Evaluated(NamedTuple):
    """The readings of one diagnostic on one update, and their nulls by quantity."""

    diagnostic: Diagnostic
    settings: Settings
    readings: Mapping[str, Reading]
    nulls: Mapping[str, Sequence[NullReading]]

    def primary(self, quantity: str) -> NullReading | None:
        """The null that stands beside the reading."""
        wanted = self.diagnostic.primary_of.get(quantity, self.diagnostic.primary)
        found = {null.null: null for null in self.nulls[quantity]}
        return next((found[name] for name in wanted if name in found), None)


class Evaluation(NamedTuple):
    """Everything that one update gave: readings with their nulls, and the tensors that are kept."""

    evaluated: Sequence[Evaluated]
    kept: Mapping[str, Tensor]


def evaluate(
    anchor: PreparedAnchor,
    current: Stored,
    chosen: Mapping[str, Diagnostic],
    overrides: Mapping[str, Settings],
    draws: Draws,
) -> Evaluation:
    """Read every diagnostic on an update and on what chance makes of it.

    A closed-form null needs no draw. An ensemble null reads the diagnostic itself on random updates
    of the same anchor, in the update's own buffer.

    Args:
        anchor: The prepared matrix.
        current: The checkpoint's matrix.
        chosen: What to read, by name; no more than the anchor was prepared for.
        overrides: Settings by diagnostic, in place of the defaults.
        draws: How many random updates, and their key.
    """
    p = anchor.facts.p
    settled = [(item, item.resolve(p, overrides)) for item in chosen.values()]
    update, delta, kept = facts_of(anchor, current, seed_for(draws.key, "start"))
    if update.spectrum is not None and any("spikes" in item.units for item, _ in settled):
        edge = anchor.request.margin * noise_edge(delta, draws)
        update = above_edge(anchor, update, current.read, kept, edge, key=draws.key)
    rank = None if current.factors is None else current.factors[0].shape[1]
    drawn = drawn_nulls(anchor, update, delta, settled=settled, draws=draws, rank=rank)
    return Evaluation([_evaluated(*each, update, drawn) for each in settled], kept)


def _evaluated(
    item: Diagnostic,
    settings: Settings,
    update: WeightUpdate,
    drawn: Mapping[tuple[str, str], Sequence[NullReading]],
) -> Evaluated:
    nulls: dict[str, list[NullReading]] = {quantity: [] for quantity in item.units}
    if item.closed_forms is not None:
        for closed in item.closed_forms(update, **settings):
            nulls[closed.quantity].append(closed.reading)
    for quantity, found in nulls.items():
        found.extend(drawn.get((item.name, quantity), ()))
    return Evaluated(item, settings, item.function(update, **settings), nulls)
