"""What the cast to bf16 let through of an update, and how large the update behind it was."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from offaxis.diagnostics.facts import Behind, WeightUpdate
from offaxis.engine.anchor import PreparedAnchor
from offaxis.linalg import visibility
from offaxis.linalg.elementwise import Counts
from offaxis.linalg.gates import OddsRatio, odds_ratio
from offaxis.linalg.lines import chance_of_lines
from offaxis.linalg.rounding import true_rms
from offaxis.linalg.visibility import OpenSteps, VisibleFraction

_SHOWN = "closed form, Gaussian update that shows the visible norm in bf16"
_KNOWN = "closed form, Gaussian update of the delta's norm"


def through_the_gate(anchor: PreparedAnchor, update: WeightUpdate, current: Tensor) -> WeightUpdate:
    """The update with what its changes in bf16 tell of it; see `linalg.visibility`."""
    counts = update.counts[min(update.counts)]
    steps = _open_steps(anchor, counts, current)
    consistency = None
    if steps is not None:
        consistency = visibility.gate_consistency(counts.table, anchor.facts.magnitudes, steps)
    return replace(
        update,
        behind=_behind(anchor, update, counts),
        consistency=consistency,
        visible=_visible(anchor, update, counts, steps),
        odds=_odds(anchor, update, current),
    )


def _odds(anchor: PreparedAnchor, update: WeightUpdate, current: Tensor) -> dict[float, OddsRatio]:
    """How much more often principal weights change than others of their binade, row and column."""
    weights, codes = anchor.facts.masks.get("principal_overlap"), anchor.codes
    if weights is None or codes is None:
        return {}
    found = {}
    for eta, counts in update.counts.items():
        if counts.changed == 0:
            continue
        chance = chance_of_lines(anchor.W, current, codes, counts.table, weights, eta=eta)
        odds = odds_ratio(counts.table, weights, chance)
        if odds is not None:
            found[eta] = odds
    return found


def _behind(anchor: PreparedAnchor, update: WeightUpdate, counts: Counts) -> Behind:
    """Size a Gaussian update, independent of the weights, to be sent through the cast.

    Where the file holds more than bf16 the update has the delta's own norm. Where it holds bf16,
    it shows what the cast let through, and the update is the one that would have shown that.
    """
    if update.storage != torch.bfloat16:
        return Behind(update.rms, 0.0, _KNOWN)
    rms = true_rms(anchor.facts.grid, math.sqrt(counts.visible_squares / counts.entries))
    return Behind(rms, _error(counts) if rms > 0 else 0.0, _SHOWN)


def _error(counts: Counts) -> float:
    """A sum of few squares is uncertain by the root of the sum of their squares."""
    return math.sqrt(counts.visible_fourth) / counts.visible_squares


def _open_steps(anchor: PreparedAnchor, counts: Counts, current: Tensor) -> OpenSteps | None:
    """The steps of the weights whose every change shows, on an anchor of bf16 values."""
    is_seen = anchor.facts.grid.on_grid and counts.changed > 0
    limit = visibility.open_limit(counts.table) if is_seen else None
    if limit is None:
        return None
    return visibility.open_steps(anchor.W.bfloat16(), current, limit)


def _visible(
    anchor: PreparedAnchor, update: WeightUpdate, counts: Counts, steps: OpenSteps | None
) -> VisibleFraction | None:
    """Measured where the file holds more than bf16, estimated where it holds bf16."""
    if update.is_zero:
        return None
    if update.storage != torch.bfloat16:
        value = math.sqrt(counts.visible_squares) / update.norm
        return VisibleFraction(value, 0.0, "measured")
    if not anchor.facts.grid.on_grid or counts.visible_squares == 0:
        return None
    rms = math.sqrt(counts.visible_squares / counts.entries)
    return visibility.visible_fraction(anchor.facts.grid, rms, _error(counts), steps)
