"""What a step learns from: given documents, or rollouts with their rewards."""

import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.errors import NumericsError, RecipeError
from offaxis.recipe import Recipe
from offaxis.tasks.base import Task
from offaxis.training.history import History
from offaxis.training.ranks import Ranks
from offaxis.training.rewarding import reward_measures, rewarded
from offaxis.training.rollouts import Completions, ends_of
from offaxis.training.rows import Rows, encode, packed, padding_of
from offaxis.training.samplers import Keys, Sampler, sampler_of
from offaxis.training.teachers import HttpTeacher


class Drawn(NamedTuple):
    """The rows of one step, and what the log says of them (nothing where there is no rollout).

    Attributes:
        rows: The rows of the step.
        measures: What the log says of them.
        first_row: Of a step shared by several processes, where this one's rows begin; None where
            the rows are the whole step's, of which the trainer takes its part.
    """

    rows: Rows
    measures: dict[str, float]
    first_row: int | None = None


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
        before = self.task.too_long
        documents = [
            self.task.document(kind, seed=self.seed, index=index)
            for kind, count in self.mixture.items()
            for index in range((step - 1) * count, step * count)
        ]
        texts = [(document.prompt, document.answer) for document in documents]
        rows = packed(encode(self.tokenizer, texts), padding_of(self.tokenizer))
        return Drawn(rows, _left_out(self.task, before))


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
        ranks: This process among those that share every step: it draws its own prompts alone.
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
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        if recipe.data.prompts < self.ranks.count:
            raise RecipeError(
                f"run {recipe.run_name}, data.prompts",
                expected=f"at least {self.ranks.count}, one for each process that shares a step",
                found=str(recipe.data.prompts),
                do="raise it, or start fewer processes",
            )
        self.task, self.tokenizer, self.recipe = task, tokenizer, recipe
        self.teacher, self.scorer = teacher, scorer
        self.sampler = sampler or sampler_of(recipe, tokenizer)
        lags = {"stale": recipe.rollouts.lag, "anchor": None}
        source = recipe.rollouts.source
        self.history = History(lags[source]) if source in lags else None
        self._window: Window | None = None

    def draw(self, model: PreTrainedModel, step: int) -> Drawn:
        """The share of a step; what is sampled is keyed by (seed, number of the prompt).

        Raises:
            NumericsError: If every completion of a drawing is empty, or too many cannot be judged.
            ServerError: If a server that samples or scores fails.
        """
        reuse = self.recipe.rollouts.reuse
        if self.history is not None:
            self.history.record(model, step - 1)
        first = step - (step - 1) % reuse
        beside: dict[str, float] = {}
        if self._window is None or self._window.step != first:
            self._window, beside = self._sampled(model, first)
        own = self.ranks.share(self.recipe.data.prompts)
        share, per_prompt = own.stop - own.start, self.recipe.rollouts.per_prompt
        rows = self._window.rows
        if reuse > 1:
            size = share * per_prompt
            rows = rows.part(slice(size * (step - first), size * (step - first + 1)))
        assert rows.batch.rewards_PG is not None
        measures = {
            **reward_measures(rows.batch.rewards_PG.flatten()),
            "response_length": float(rows.batch.mask_BT.sum(1).float().mean()),
            **beside,
        }
        if self._window.age is not None:
            measures["age"] = self._window.age + step - first
        if step == first + reuse - 1:
            self._window = None
        return Drawn(rows, measures, first_row=own.start * per_prompt)

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
        """Sample, ask for the rewards and for the teacher's log-probabilities; and what to log."""
        how, seed = self.recipe.rollouts, self.recipe.seed
        num_prompts = self.recipe.data.prompts
        own = self.ranks.share(num_prompts)
        indices = [
            index
            for begin in range(
                (step - 1) * num_prompts, (step - 1 + how.reuse) * num_prompts, num_prompts
            )
            for index in range(begin + own.start, begin + own.stop)
        ]
        kind = self.task.problem_kind
        before = self.task.too_long
        problems = [self.task.document(kind, seed=seed, index=index) for index in indices]
        keys = [("rollouts", seed, index) for index in indices]
        completions, age = self._completed(model, [each.prompt for each in problems], keys, step)
        began = time.perf_counter()
        asked = [problem for problem in problems for _ in range(how.per_prompt)]
        rewards_B = rewarded(self.task, self.recipe, step, asked, completions.texts)
        beside = {"reward_seconds": time.perf_counter() - began, **_left_out(self.task, before)}
        rows = completions.rows
        rewards_PG = rewards_B.reshape(len(problems), -1)
        batch = replace(rows.batch, rewards_PG=rewards_PG, max_tokens=how.max_tokens)
        rows = replace(rows, batch=batch)
        if self.scorer is not None:
            began = time.perf_counter()
            rows = self.scorer.score(rows)
            beside["teacher_seconds"] = time.perf_counter() - began
        return Window(step, age, rows), beside

    def _completed(
        self, model: PreTrainedModel, prompts: list[str], keys: Keys, step: int
    ) -> tuple[Completions, int | None]:
        """The completions, and how many steps ago their weights were the student's."""
        if self.history is not None:
            age: int | None = self.history.age(step - 1)
            with self.history.restored(model):
                completions = self.sampler.sample(model, prompts, keys)
        else:
            age = None if self.recipe.rollouts.source == "teacher" else 0
            completions = self.sampler.sample(self.teacher or model, prompts, keys)
        tokens = completions.rows.batch.tokens_BT[completions.rows.batch.mask_BT]
        ends = torch.tensor(ends_of(model, self.tokenizer), device=tokens.device)
        if bool(torch.isin(tokens, ends).all()):
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


def _left_out(task: Task, before: int) -> dict[str, float]:
    """How many documents of a step were too long, where there were any."""
    count = task.too_long - before
    return {"too_long": float(count)} if count else {}
