"""What a run leaves behind: checkpoints on a schedule, and a line of the log for every step."""

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from offaxis.files import write_text
from offaxis.recipe import Recipe
from offaxis.runs import RunFolder
from offaxis.tasks.base import Task
from offaxis.training.evaluation import StartSamples, accuracy, distance, judge, logged
from offaxis.training.models import nothing_beside, save_model
from offaxis.training.ranks import Ranks, whole_state
from offaxis.training.sampling import key_of
from offaxis.training.schedule import evaluated_steps, planned_steps
from offaxis.training.stopping import Stop
from offaxis.training.trainer import StreamTrainer


class Progress(NamedTuple):
    """Where a run is: what an observer is told after every step, or a note to be shown at once."""

    run: str
    step: int
    max_steps: int
    accuracy: float | None
    finished: bool = False
    note: str = ""


# An accuracy this far below the mark on a quarter of a check's problems (64 of 256: deviation 0.06)
# is taken as below it.
_FAR = 0.15

# Steps between two writings of the log.
_LOGGED_EVERY = 10

# The part of its time that a run gives to states to continue from, where the recipe does not say.
_KEEPING = 0.03

# Two moments and the weights: a state is so many times a checkpoint.
_STATE_SIZE = 3

Observer = Callable[[Progress], None]


class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Saves, evaluates, logs and stops one run.

    Attributes:
        saved: The steps whose weights are kept.
        lines: The log.
        accuracy: The last one that was measured.
        is_whole: Whether weights, optimizer and log are of one step, as between two steps.
        is_done: Whether the run has come to its end.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        observe: Observer,
        *,
        stop: Stop,
        ranks: Ranks,
        known: Mapping[str, float | None] | None = None,
    ) -> None:
        """Record a run; `known` is what its start was found to solve, where that was judged."""
        self.recipe, self.folder, self.task = recipe, folder, task
        self.tokenizer, self.observe = tokenizer, observe
        self.stop, self.ranks = stop, ranks
        self.planned = planned_steps(recipe)
        self.evaluated = evaluated_steps(self.planned)
        self.is_whole, self.is_done = False, False
        self._kept_at, self._keeping_seconds = time.monotonic(), 0.0
        self.saved: list[int] = []
        self.lines: list[dict[str, Any]] = []
        self.accuracy: float | None = None
        self.trainer: StreamTrainer | None = None
        self._known = known
        self._ruler: StartSamples | None = None

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted run has to remember."""
        return {
            "lines": self.lines,
            "saved": self.saved,
            "accuracy": self.accuracy,
            "keeping_seconds": self._keeping_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember it again."""
        self.lines, self.saved = state["lines"], state["saved"]
        self.accuracy, self._keeping_seconds = state["accuracy"], state["keeping_seconds"]

    def draw_ruler(self) -> None:
        """Sample from the start, before its weights move or are replaced by a state's."""
        self._ruler = StartSamples.draw(
            self._model, self.tokenizer, self.task, self.recipe.evaluation
        )

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - Trainer's signature
    ) -> None:
        """Save the start and judge it, before anything moves; a run that continues has it."""
        if state.global_step == 0:
            began = time.monotonic()
            self._save(0)
            self._keeping_seconds = _STATE_SIZE * (time.monotonic() - began)
            self._write_line({"step": 0, **self._judgement(self._known)})
        self._kept_at, self.is_whole = time.monotonic(), True

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - Trainer's signature
    ) -> None:
        """Key what a model draws while it learns (dropout), so that any step can be repeated."""
        torch.manual_seed(key_of("step", self.recipe.seed, state.global_step + 1, self.ranks.index))

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - Trainer's signature
    ) -> None:
        """Note that weights begin to move."""
        self.is_whole = False

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - Trainer's signature
    ) -> None:
        """Log the step; save, judge and stop where it is time to."""
        assert self.trainer is not None
        step = state.global_step
        line: dict[str, Any] = {"step": step, **self.trainer.finish_step()}
        is_last = self.ranks.any([self._reached(step)])[0] or step >= self.recipe.steps.max
        if is_last or step in self.evaluated:
            line |= self._judgement()
        if is_last or step in self.planned:
            self._save(step)
        self._write_line(line)
        self.observe(
            Progress(self.recipe.run_name, step, self.recipe.steps.max, self.accuracy, is_last)
        )
        self.is_whole, self.is_done = True, is_last
        is_stopped, is_due = self.ranks.any((self.stop.signal is not None, self._is_due(step)))
        control.should_training_stop = control.should_training_stop or is_last or is_stopped
        control.should_save = not is_last and (is_stopped or is_due)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - Trainer's signature
    ) -> None:
        """Note what a state has cost."""
        assert self.trainer is not None
        self._kept_at, self._keeping_seconds = time.monotonic(), self.trainer.states.seconds

    def _is_due(self, step: int) -> bool:
        """Whether it is time for a state to continue from."""
        every = self.recipe.checkpoints.resume_every
        if every:
            return step % every == 0
        return _KEEPING * (time.monotonic() - self._kept_at) > self._keeping_seconds

    @property
    def _model(self) -> Any:  # noqa: ANN401 - Trainer does not say which model it holds
        assert self.trainer is not None
        return self.trainer.model

    def _reached(self, step: int) -> bool:
        """Whether the run has come to the distance or the accuracy at which it shall stop."""
        steps = self.recipe.steps
        assert self.trainer is not None
        norm = self.trainer.measures["relative_update_norm"]
        if steps.stop_at_norm and norm >= steps.stop_at_norm:
            return True
        if not steps.stop_at_accuracy or step % steps.check_every:
            return False
        # Most checks are far from the mark, and a quarter of the problems is enough to tell.
        self.accuracy = self._accuracy(steps.check_problems // 4, self._check_seed)
        if self.accuracy is None or self.accuracy < steps.stop_at_accuracy - _FAR:
            return False
        self.accuracy = self._accuracy(steps.check_problems, self._check_seed)
        return self.accuracy is not None and self.accuracy >= steps.stop_at_accuracy

    @property
    def _check_seed(self) -> int:
        """The key of other problems than the run is judged on: stopping must not select them."""
        return self.recipe.evaluation.seed + 1

    def _accuracy(self, num_problems: int, seed: int) -> float | None:
        return accuracy(
            self._model, self.tokenizer, self.task, num_problems=max(1, num_problems), seed=seed
        )

    def _judgement(
        self, known: Mapping[str, float | None] | None = None
    ) -> dict[str, float | None]:
        """Accuracy and distance from the start on the fixed sets, with their intervals."""
        assert self._ruler is not None
        evaluation = self.recipe.evaluation
        away = distance(self._model, evaluation, self._ruler)
        if away.value is None or not math.isfinite(away.value):
            # The last step may break the weights after its loss was finite.
            assert self.trainer is not None
            raise self.trainer.not_finite(f"KL(start || model) = {away.value}")
        solved = known or logged(judge(self._model, self.tokenizer, self.task, evaluation))
        line = {**solved, **logged([away])}
        self.accuracy = line["accuracy"]
        return line

    def _save(self, step: int) -> None:
        # A loss is computed before the step that breaks the weights; no checkpoint shall hold them.
        if not all(bool(w.isfinite().all()) for w in self._model.parameters()):
            assert self.trainer is not None
            raise self.trainer.not_finite("weights that are not finite")
        state = whole_state(self._model)
        if self.ranks.is_first:
            assert self.trainer is not None
            is_asked = self.recipe.checkpoints.optimizer_state
            beside = self.trainer.save_optimizer if is_asked else nothing_beside
            save_model(self._model, self.tokenizer, self.folder.checkpoint(step), beside, state)
        self.saved.append(step)

    def write_log(self) -> None:
        """Write the log whole, so that it never ends in half a line."""
        text = "".join(json.dumps(entry) + "\n" for entry in self.lines)
        write_text(self.folder.log_path, text)

    def _write_line(self, line: dict[str, Any]) -> None:
        """Add a line; every so often the log is written."""
        self.lines.append(line)
        if self.ranks.is_first and ("accuracy" in line or line["step"] % _LOGGED_EVERY == 0):
            self.write_log()
