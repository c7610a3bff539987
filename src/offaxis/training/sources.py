"""What a step learns from: given documents, or the student's own rollouts with their rewards."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.recipe import Recipe
from offaxis.tasks.base import Task
from offaxis.training.ranks import Ranks
from offaxis.training.rollouts import complete
from offaxis.training.rows import Rows, encode, packed, padding_of


class Drawn(NamedTuple):
    """The rows of one step, and what the log says of them (nothing where there is no rollout).

    Attributes:
        rows: The rows of the step.
        measures: What the log says of them.
        is_share: Whether they are this process's part of the step already; where not, the trainer
            takes its part of them.
    """

    rows: Rows
    measures: dict[str, float]
    is_share: bool = False


@runtime_checkable
class Source(Protocol):
    """Gives the rows of each step: the same rows for the same step, whatever came before.

    A source that needs to remember what came before has `state_dict()` and `load_state_dict()`; an
    interrupted run continues with what it remembered.
    """

    def draw(self, model: PreTrainedModel, step: int) -> Drawn:
        """The rows of a step, counted from 1."""
        ...


@dataclass(frozen=True)
class Documents:
    """Fixed numbers of documents of each kind in every step, packed."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    mixture: dict[str, int]
    seed: int

    def draw(self, model: PreTrainedModel, step: int) -> Drawn:
        """The next documents of each stream."""
        texts = [
            self.task.document(kind, seed=self.seed, index=index)
            for kind, count in self.mixture.items()
            for index in range((step - 1) * count, step * count)
        ]
        rows = packed(encode(self.tokenizer, texts), padding_of(self.tokenizer))
        return Drawn(rows, {})


@dataclass(frozen=True)
class Rollouts:
    """Completions sampled from the student, a group for each prompt, and their rewards."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    ranks: Ranks = field(default_factory=Ranks)

    def draw(self, model: PreTrainedModel, step: int) -> Drawn:
        """Sample with generators keyed by (seed, prompt), then ask for the rewards."""
        share = self.ranks.share(self.recipe.data.prompts)
        num_prompts, group = share.stop - share.start, self.recipe.rollouts.per_prompt
        first = (step - 1) * self.recipe.data.prompts
        indices = range(first + share.start, first + share.stop)
        problems = [
            self.task.document(self.task.problem_kind, seed=self.recipe.seed, index=index)
            for index in indices
        ]
        prompts = [problem.prompt for problem in problems]
        completions = complete(
            model,
            self.tokenizer,
            prompts,
            max_tokens=self.recipe.rollouts.max_tokens,
            temperature=self.recipe.rollouts.temperature,
            per_prompt=group,
            keys=[("rollouts", self.recipe.seed, index) for index in indices],
        )
        asked = [prompt for prompt in prompts for _ in range(group)]
        pairs = list(zip(asked, completions.texts, strict=True))
        rewards = rewarder(self.task, self.recipe, step, share.start * group)(pairs)
        rewards = rewards.reshape(num_prompts, group)
        rows = completions.rows
        rows = replace(rows, batch=replace(rows.batch, rewards_PG=rewards))
        measures = {
            "reward": float(rewards.mean()),
            "response_length": float(completions.lengths_B.float().mean()),
        }
        return Drawn(rows, measures, is_share=True)


def rewarder(
    task: Task, recipe: Recipe, step: int, first: int = 0
) -> Callable[[list[tuple[str, str]]], Float[Tensor, "B"]]:
    """The rule that rewards (prompt, completion) pairs of a step, from `first` on, by 0 or 1."""

    def verified(pairs: list[tuple[str, str]]) -> Float[Tensor, "B"]:
        return torch.tensor([float(task.verify(*pair)) for pair in pairs])

    def coin(pairs: list[tuple[str, str]]) -> Float[Tensor, "B"]:
        random = Random(f"rewards/{recipe.seed}/{step}")
        coins = [float(random.random() < 0.5) for _ in range(first + len(pairs))]
        return torch.tensor(coins[first:])

    return {"verifier": verified, "random": coin}[recipe.rewards.kind]
