"""From the rows of a step to weighed ones: facts, importance, the objective, the tokens kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from offaxis.engine.seeds import generator_for
from offaxis.objectives.base import Component, Objective, Streams, TokenBatch, needed
from offaxis.objectives.importance import corrected
from offaxis.objectives.selection import kept, selection_weights
from offaxis.recipe import Recipe, Tokens
from offaxis.training.heads import facts_of, joined
from offaxis.training.rows import Rows

_OF_TEACHER = frozenset({"teacher_logprobs", "divergence"})
_FACTS_OF_SCORE = {
    "log_ratio": ("logprobs", "teacher_logprobs"),
    "entropy": ("entropy",),
    "divergence": ("divergence",),
    "random": (),
}


class Weighed(NamedTuple):
    """The rows of a step with their streams, and what their sum is divided by.

    Attributes:
        rows: With streams, and with those of the objective's components where it has some.
        normaliser: Of the whole step.
        measures: What the log says of the weighing.
    """

    rows: Rows
    normaliser: float
    measures: dict[str, float]


@dataclass(frozen=True)
class Weigher:
    """Weighs the tokens of a step as the recipe says.

    It works on the whole step, before the step is split: no sum over sequences or groups may depend
    on how that is done.

    Attributes:
        recipe: The run's.
        objective: Its objective.
        num_ids: The entries that student's and teacher's vocabularies share; None for all.
    """

    recipe: Recipe
    objective: Objective
    num_ids: int | None = None

    @property
    def _facts(self) -> frozenset[str]:
        """What has to be known of the tokens before they are weighed."""
        found: set[str] = set(self.objective.facts(self.recipe.objective.settings))
        if self.recipe.tokens is not None:
            found |= set(_FACTS_OF_SCORE[self.recipe.tokens.by])
        if self.objective.rollouts and self.recipe.rollouts.asks_student:
            found.add("logprobs")
        return frozenset(found)

    def weigh(
        self,
        rows: Rows,
        parts: Sequence[slice],
        *,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        step: int,
        first_row: int = 0,
    ) -> Weighed:
        """Weigh the rows of a step; facts are taken micro-batch by micro-batch, as `parts` says.

        Of a step that several processes share each weighs its own rows, from `first_row` on; their
        normalisers add up to the step's.
        """
        batch = rows.batch
        if facts := self._facts:
            asked = teacher if facts & _OF_TEACHER else None
            filled = [rows.part(part) for part in parts if part.start < part.stop]
            batches = [facts_of(student, part, asked, self.num_ids) for part in filled]
            batch = joined(batch, batches)
        how = self.recipe.rollouts
        if self.objective.rollouts and how.asks_student:
            now_BT = needed(batch.logprobs_BT, "student log-probabilities")
            batch = corrected(batch, now_BT, importance=how.importance, cap=how.importance_cap)
        streams = self.objective(batch, **self.recipe.objective.settings)
        components = self.objective.components(batch, **self.recipe.objective.settings)
        measures: dict[str, float] = {}
        if self.recipe.tokens is not None:
            weights_BT = _selected(batch, self.recipe.tokens, (self.recipe.seed, step), first_row)
            measures["kept_tokens"] = float((weights_BT > 0).sum())
            streams, components = _weighted(streams, components, weights_BT)
        num_tokens = float(batch.mask_BT.sum())
        normaliser = num_tokens if streams.normaliser is None else streams.normaliser
        weighed = replace(rows, batch=batch, streams=streams, components=components)
        return Weighed(weighed, normaliser, measures)


def _selected(
    batch: TokenBatch, how: Tokens, key: tuple[int, int], first_row: int
) -> Float[Tensor, "B T"]:
    """The weights of the tokens: zero for those left out."""
    if how.by == "log_ratio":
        teacher_BT = needed(batch.teacher_logprobs_BT, "teacher log-probabilities")
        scores_BT = needed(batch.logprobs_BT, "student log-probabilities") - teacher_BT
    elif how.by == "entropy":
        scores_BT = needed(batch.entropy_BT, "entropies")
    elif how.by == "divergence":
        scores_BT = needed(batch.divergence_BT, "divergences")
    else:
        num_rows, width = batch.mask_BT.shape
        rows = [
            torch.rand(width, generator=generator_for("tokens", *key, first_row + row))
            for row in range(num_rows)
        ]
        scores_BT = torch.stack(rows).to(batch.mask_BT.device)
    kept_BT = kept(scores_BT, batch.mask_BT, how.keep)
    return selection_weights(kept_BT, batch.mask_BT, compensate=how.compensate)


def _weighted(
    streams: Streams, components: dict[str, Component], weights_BT: Float[Tensor, "B T"]
) -> tuple[Streams, dict[str, Component]]:
    """All streams times the weights of their tokens."""
    each = {
        name: component._replace(streams=component.streams.map(lambda s: s * weights_BT))
        for name, component in components.items()
    }
    return streams.map(lambda s: s * weights_BT), each
