"""Updates read through the engine, without disk."""

import math
from typing import Any, NamedTuple

import torch

from offaxis.catalog import collect
from offaxis.diagnostics.base import Diagnostic, Reading, Tier
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.engine import Draws, Evaluated, Stored, evaluate, prepare, request_for
from offaxis.engine.facts import facts_of
from offaxis.engine.spikes import above_edge


def diagnostics() -> dict[str, Diagnostic]:
    return collect("offaxis.diagnostics", Diagnostic)


class Case(NamedTuple):
    """A pair of matrices and the facts of the update between them."""

    W0: torch.Tensor
    W1: torch.Tensor
    update: WeightUpdate
    overrides: dict[str, dict[str, Any]]

    @property
    def D(self) -> torch.Tensor:
        return self.W1.double() - self.W0.double()


def case(
    W0: torch.Tensor,
    W1: torch.Tensor,
    *,
    edge: float = math.inf,
    tier: Tier = "exact",
    storage: torch.dtype = torch.float32,
    **overrides: dict[str, Any],
) -> Case:
    vectors = max(1, min(16, min(W0.shape) // 4))
    request = request_for(diagnostics(), overrides, tuple(W0.shape), tier, vectors=vectors)
    anchor = prepare(W0, request)
    update, _, kept = facts_of(anchor, Stored(lambda: W1, storage, "float32"), 0)
    corrected = above_edge(anchor, update, lambda: W1, kept, edge, key="test")
    return Case(W0, W1, corrected, overrides)


def read(found: Case, name: str) -> dict[str, Reading]:
    item = diagnostics()[name]
    settings = item.resolve(found.update.anchor.p, found.overrides)
    return dict(item.function(found.update, **settings))


def values(found: Case, name: str) -> dict[str, float | None]:
    return {quantity: reading.value for quantity, reading in read(found, name).items()}


def evaluated(
    W0: torch.Tensor,
    W1: torch.Tensor,
    *names: str,
    draws: int = 4,
    storage: torch.dtype = torch.float32,
    tier: Tier = "exact",
) -> dict[str, Evaluated]:
    """Readings with their nulls, by diagnostic."""
    chosen = {name: diagnostics()[name] for name in names}
    vectors = max(1, min(16, min(W0.shape) // 4))
    anchor = prepare(W0, request_for(chosen, {}, tuple(W0.shape), tier, vectors=vectors))
    held = Stored(lambda: W1, storage, "float32")
    found = evaluate(anchor, held, chosen, {}, Draws(draws, draws, "test"))
    return {item.diagnostic.name: item for item in found.evaluated}
