"""What a step learns from: given documents, or rollouts with their rewards."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.errors import NumericsError
from offaxis.recipe import Recipe
from offaxis.tasks.base import Task
from offaxis.training.history import History
from offaxis.training.rollouts import Completions
from offaxis.training.rows import Rows, encode, packed, padding_of
from offaxis.training.samplers import Sampler, sampler_of
from offaxis.training.teachers import HttpTeacher


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
        texts = [
            self.task.document(kind, seed=self.seed, index=index)
            for kind, count in self.mixture.items()
            for index in range((step - 1) * count, step * count)
        ]
        rows = packed(encode(self.tokenizer, texts), padding_of(self.tokenizer))
        return Drawn(rows, {})


class Rollouts:
    """Sampled completions, a group for each prompt, and their rewards.

    They come from the student now, from the student some steps ago, from the start, or from the
    teacher, as the recipe says. A recipe that reuses them draws the prompts of several steps at
    once, and each step has its own share.

    Args:
        task: What is asked and how it is rewarded.
        tokenizer: The student's.
        recipe: The run's.
        sampler: Who samples; the student in this process by default.
        teacher: The model that samples in place of the student, where the teacher does and is here.
        scorer: Who tells the teacher's log-probabilities, where the teacher is behind a server.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        *,
        sampler: Sampler | None = None,
        teacher: PreTrainedModel | None = None,
        scorer: HttpTeacher | None = None,
    ) -> None:
        self.task, self.recipe, self.teacher, self.scorer = task, recipe, teacher, scorer
        self.sampler = sampler or sampler_of(recipe, tokenizer)
        lags = {"stale": recipe.rollouts.lag, "anchor": None}
        source = recipe.rollouts.source
        self.history = History(lags[source]) if source in lags else None
        self._window: Window | None = None

    def draw(self, model: PreTrainedModel, step: int) -> Drawn:
        """The share of a step; what is sampled is keyed by (seed, first step of the drawing).

        Raises:
            NumericsError: If every completion of a drawing is empty.
            ServerError: If a server that samples or scores fails.
        """
        reuse, num_prompts = self.recipe.rollouts.reuse, self.recipe.data.prompts
        if self.history is not None:
            self.history.record(model, step - 1)
        first = step - (step - 1) % reuse
        seconds: dict[str, float] = {}
        if self._window is None or self._window.step != first:
            self._window, seconds = self._sampled(model, first)
        size = num_prompts * self.recipe.rollouts.per_prompt
        share = slice(size * (step - first), size * (step - first + 1))
        rows = self._window.rows if reuse == 1 else self._window.rows.part(share)
        assert rows.batch.rewards_PG is not None
        measures = {
            "reward": float(rows.batch.rewards_PG.mean()),
            "response_length": float(rows.batch.mask_BT.sum(1).float().mean()),
            **seconds,
        }
        if self._window.age is not None:
            measures["age"] = self._window.age + step - first
        if step == first + reuse - 1:
            self._window = None
        return Drawn(rows, measures)

    def state_dict(self) -> dict[str, Any]:
        """What a continued run cannot draw again: the weights of earlier steps, and open shares."""
        history = None if self.history is None else self.history.state_dict()
        window = None
        if self._window is not None:
            window = {**self._window._asdict(), "rows": self._window.rows.state_dict()}
        return {"history": history, "window": window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where the run that gave the state was."""
        if self.history is not None and state["history"] is not None:
            self.history.load_state_dict(state["history"])
        window = state["window"]
        if window is not None:
            window = Window(**{**window, "rows": Rows.from_state(window["rows"])})
        self._window = window

    def _sampled(self, model: PreTrainedModel, step: int) -> "tuple[Window, dict[str, float]]":
        """Sample, ask for the rewards and for the teacher's log-probabilities; and the seconds."""
        how, seed = self.recipe.rollouts, self.recipe.seed
        num_prompts = self.recipe.data.prompts
        indices = range((step - 1) * num_prompts, (step - 1 + how.reuse) * num_prompts)
        kind = self.task.problem_kind
        prompts = [self.task.document(kind, seed=seed, index=index).prompt for index in indices]
        completions, age = self._completed(model, prompts, step)
        began = time.perf_counter()
        asked = [prompt for prompt in prompts for _ in range(how.per_prompt)]
        pairs = list(zip(asked, completions.texts, strict=True))
        rewards = rewarder(self.task, self.recipe, step)(pairs).reshape(len(prompts), -1)
        seconds = {"reward_seconds": time.perf_counter() - began}
        rows = completions.rows
        batch = replace(rows.batch, rewards_PG=rewards, max_tokens=how.max_tokens)
        rows = replace(rows, batch=batch)
        if self.scorer is not None:
            began = time.perf_counter()
            rows = self.scorer.score(rows)
            seconds["teacher_seconds"] = time.perf_counter() - began
        return Window(step, age, rows), seconds

    def _completed(
        self, model: PreTrainedModel, prompts: list[str], step: int
    ) -> tuple[Completions, int | None]:
        """The completions, and how many steps ago their weights were the student's."""
        key = ("rollouts", self.recipe.seed, step)
        if self.history is not None:
            age: int | None = self.history.age(step - 1)
            with self.history.restored(model):
                completions = self.sampler.sample(model, prompts, *key)
        else:
            age = None if self.recipe.rollouts.source == "teacher" else 0
            completions = self.sampler.sample(self.teacher or model, prompts, *key)
        if int(completions.lengths_B.max()) == 0 or not any(
            text != self.task.end for text in completions.texts
        ):
            raise NumericsError(
                f"run {self.recipe.run_name}, step {step}",
                expected="rollouts with something in them",
                found=f"{len(completions.texts)} completions that end before their first token",
                do="start from a model that answers the task's prompts, or lower optimizer.lr: a "
                "student that has learned to say nothing does not recover",
            )
        return completions, age


class Window(NamedTuple):
    """What one drawing left for its steps.

    Attributes:
        step: The first of them.
        age: Steps between the weights that sampled and those of the student at that step; None
            where the student never had them.
        rows: The rows of all of them, with their rewards.
    """

    step: int
    age: int | None
    rows: Rows


def rewarder(
    task: Task, recipe: Recipe, step: int
) -> Callable[[list[tuple[str, str]]], Float[Tensor, "B"]]:
    """The rule that rewards (prompt, completion) pairs of a step with 0 or 1."""

    def verified(pairs: list[tuple[str, str]]) -> Float[Tensor, "B"]:
        return torch.tensor([float(task.verify(*pair)) for pair in pairs])

    def coin(pairs: list[tuple[str, str]]) -> Float[Tensor, "B"]:
        random = Random(f"rewards/{recipe.seed}/{step}")
        return torch.tensor([float(random.random() < 0.5) for _ in pairs])

    return {"verifier": verified, "random": coin}[recipe.rewards.kind]
