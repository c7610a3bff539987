"""What a run leaves behind: log-spaced checkpoints, and a line of the log for every step."""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
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
from offaxis.training.models import save_model
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

Observer = Callable[[Progress], None]


def checkpoint_steps(max_steps: int, count: int) -> list[int]:
    """Step 0 and log-spaced steps up to the last, `count` in all, fewer where steps are few.

    They begin at step 2: a warm-up's first step has a learning rate of zero and moves nothing.
    """
    spaced = np.geomspace(max_steps, min(2, max_steps), count - 1).round().astype(int)
    return [0, *sorted({int(step) for step in spaced})]


def evaluated_steps(steps: list[int]) -> list[int]:
    """The start and every second checkpoint counted back from the last, the first steps left out.

    A step or two from the start nothing but the noise of the evaluation could be seen.
    """
    return [0, *(step for step in sorted(steps[::-2]) if step > 2 or step == steps[-1])]


class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Saves, evaluates, logs and stops one run."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        observe: Observer,
    ) -> None:
        self.recipe, self.folder, self.task = recipe, folder, task
        self.tokenizer, self.observe = tokenizer, observe
        self.planned = checkpoint_steps(recipe.steps.max, recipe.checkpoints.count)
        self.evaluated = evaluated_steps(self.planned)
        self.saved: list[int] = []
        self.lines: list[dict[str, Any]] = []
        self.accuracy: float | None = None
        self.trainer: StreamTrainer | None = None
        self._ruler: StartSamples | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - Trainer's signature
    ) -> None:
        """Save the start and judge it, before anything moves."""
        self._ruler = StartSamples.draw(
            self._model, self.tokenizer, self.task, self.recipe.evaluation
        )
        self._save(0)
        self._write_line({"step": 0, **self._judgement()})

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
        is_last = self._reached(step) or step >= self.recipe.steps.max
        if is_last or step in self.evaluated:
            line |= self._judgement()
        if is_last or step in self.planned:
            self._save(step)
        self._write_line(line)
        control.should_training_stop = control.should_training_stop or is_last
        self.observe(
            Progress(self.recipe.run_name, step, self.recipe.steps.max, self.accuracy, is_last)
        )

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

    def _judgement(self) -> dict[str, float | None]:
        """Accuracy and distance from the start on the fixed sets, with their intervals."""
        assert self._ruler is not None
        evaluation = self.recipe.evaluation
        away = distance(self._model, evaluation, self._ruler)
        if away.value is None or not math.isfinite(away.value):
            # The last step may break the weights after its loss was finite.
            assert self.trainer is not None
            raise self.trainer.not_finite(f"KL(start || model) = {away.value}")
        metrics = judge(self._model, self.tokenizer, self.task, evaluation)
        line = logged([*metrics, away])
        self.accuracy = line["accuracy"]
        return line

    def _save(self, step: int) -> None:
        # A loss is computed before the step that breaks the weights; no checkpoint shall hold them.
        if not all(bool(w.isfinite().all()) for w in self._model.parameters()):
            assert self.trainer is not None
            raise self.trainer.not_finite("weights that are not finite")
        save_model(self._model, self.tokenizer, self.folder.checkpoint(step))
        self.saved.append(step)

    def _write_line(self, line: dict[str, Any]) -> None:
        """Add a line; every so often the file is written whole, so it never ends in half a line."""
        self.lines.append(line)
        if "accuracy" in line or line["step"] % _LOGGED_EVERY == 0:
            text = "".join(json.dumps(entry) + "\n" for entry in self.lines)
            write_text(self.folder.log_path, text)
