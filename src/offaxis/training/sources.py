"""What a step learns from: given documents, or the student's own rollouts with their rewards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.catalog import collect, find
from offaxis.errors import NumericsError
from offaxis.objectives.base import Objective
from offaxis.recipe import Recipe
from offaxis.rewards.base import Reward
from offaxis.tasks.base import Document, Task
from offaxis.training.rollouts import complete, keyed_randomness
from offaxis.training.rows import Rows, encode, packed, padding_of


class Drawn(NamedTuple):
    """The rows of one step, and what the log says of them (nothing where there is no rollout)."""

    rows: Rows
    measures: dict[str, float]


@runtime_checkable
class Source(Protocol):
    """Gives the rows of each step: the same rows for the same step, whatever came before."""

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
        before = self.task.too_long
        documents = [
            self.task.document(kind, seed=self.seed, index=index)
            for kind, count in self.mixture.items()
            for index in range((step - 1) * count, step * count)
        ]
        texts = [(document.prompt, document.answer) for document in documents]
        rows = packed(encode(self.tokenizer, texts), padding_of(self.tokenizer))
        return Drawn(rows, _left_out(self.task, before))


@dataclass(frozen=True)
class Rollouts:
    """Completions sampled from the student, a group for each prompt, and their rewards."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe

    def draw(self, model: PreTrainedModel, step: int) -> Drawn:
        """Sample with a generator keyed by (seed, step), then ask for the rewards."""
        num_prompts, group = self.recipe.data.prompts, self.recipe.rollouts.per_prompt
        indices = range((step - 1) * num_prompts, step * num_prompts)
        before = self.task.too_long
        problems = [
            self.task.document(self.task.problem_kind, seed=self.recipe.seed, index=index)
            for index in indices
        ]
        prompts = [problem.prompt for problem in problems]
        with keyed_randomness("rollouts", self.recipe.seed, step):
            completions = complete(
                model,
                self.tokenizer,
                prompts,
                max_tokens=self.recipe.rollouts.max_tokens,
                temperature=self.recipe.rollouts.temperature,
                per_prompt=group,
            )
        asked = [problem for problem in problems for _ in range(group)]
        rewards_B = rewarded(self.task, self.recipe, step, asked, completions.texts)
        rows = completions.rows
        rewards_PG = rewards_B.reshape(num_prompts, group)
        rows = replace(rows, batch=replace(rows.batch, rewards_PG=rewards_PG))
        measures = {
            **reward_measures(rewards_B),
            **_left_out(self.task, before),
            "response_length": float(completions.lengths_B.float().mean()),
        }
        return Drawn(rows, measures)


def rewarded(
    task: Task,
    recipe: Recipe,
    step: int,
    documents: Sequence[Document],
    completions: Sequence[str],
) -> Float[Tensor, "B"]:
    """What the completions of a step earn; NaN for those that cannot be judged.

    Raises:
        NumericsError: If the objective needs rewards, and more than `rewards.max_unscorable` of
            them are missing.
    """
    reward = collect("offaxis.rewards", Reward).get(recipe.rewards.kind)
    if reward is None or reward.is_rule:
        scores = task.scores(documents, completions)
    else:
        scores = reward()(documents, completions, key=f"rewards/{recipe.seed}/{step}")
    missing = sum(score is None for score in scores)
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    if objective.rewards and missing > recipe.rewards.max_unscorable * len(scores):
        raise NumericsError(
            f"run {recipe.run_name}, step {step}, rewards",
            expected=f"at most {recipe.rewards.max_unscorable:.0%} of the completions that cannot "
            "be judged",
            found=f"{missing} of {len(scores)}",
            do="see whether the rows have answers and the sandbox answers; raise "
            "rewards.max_unscorable if so many may be missing",
        )
    return torch.tensor([math.nan if score is None else score for score in scores])


def reward_measures(rewards_B: Float[Tensor, "B"]) -> dict[str, float]:
    """The mean reward of what could be judged, if anything could, and how many could not."""
    is_scored = ~rewards_B.isnan()
    measures = {"unscorable": float((~is_scored).sum())}
    if is_scored.any():
        measures["reward"] = float(rewards_B[is_scored].mean())
    return measures


def _left_out(task: Task, before: int) -> dict[str, float]:
    """How many documents of a step were too long, where there were any."""
    count = task.too_long - before
    return {"too_long": float(count)} if count else {}
