"""The one training loop: `transformers.Trainer` with the one loss of `offaxis.objectives`.

Everything is trained here: base, teacher and anchor by cross-entropy on documents, the arms by
their objectives. The hooks are the public ones: `get_batch_samples` draws the rows of a step,
`compute_loss` weighs them, and `loss_is_scaled_for_ga` says that the loss is already normalised.

Shapes: B rows, S tokens of a row, T = S - 1, V entries of the vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from offaxis.errors import NumericsError, UsageError
from offaxis.objectives.base import Objective
from offaxis.objectives.loss import token_loss
from offaxis.recipe import Recipe
from offaxis.training.ranks import Ranks, through
from offaxis.training.resume import States
from offaxis.training.rows import Rows, attention_bias
from offaxis.training.sources import Drawn, Source


class _Steps(Dataset[int]):
    """The step numbers: Trainer wants something to iterate over, the rows come from the source."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


class StreamTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trainer with rows from a source and a loss from an objective.

    After each optimizer step `measures` holds what the log says of it: loss, entropy_nats, tokens,
    rollout_seconds and training_seconds, and what the source adds (reward, response_length).
    """

    # The loss is divided by the tokens of the whole step, whatever it was split into.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: Recipe,
        *,
        source: Source,
        objective: Objective,
        states: States,
        teacher: PreTrainedModel | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        num_batches = recipe.steps.max * recipe.optimizer.micro_batches
        super().__init__(
            model=model,
            args=_arguments(recipe, str(states.making)),
            train_dataset=_Steps(num_batches * self.ranks.count),
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        if self.is_deepspeed_enabled:
            raise _no_deepspeed()
        if recipe.precision.gradient_checkpointing:
            # transformers 5.23 has renamed it, and warns.
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            next(getattr(model, name) for name in names if hasattr(model, name))()
        self.recipe, self.source, self.objective = recipe, source, objective
        self.states = states
        self.teacher = teacher.eval().to(model.device) if teacher is not None else None
        self.measures: dict[str, float] = {}
        self._drawn_at = 0.0
        self._weight = 0

    def get_batch_samples(
        self,
        epoch_iterator: Iterator[Any],
        num_batches: int,
        device: torch.device,
    ) -> tuple[list[dict[str, Any]], int]:
        """Draw the rows of the whole step and split them into micro-batches."""
        began = time.perf_counter()
        drawn = self._drawn()
        rows = drawn.rows.to(self.model.device)
        num_tokens = round(self.ranks.total([float(rows.batch.mask_BT.sum())])[0])
        self._drawn_at = time.perf_counter()
        self.measures = {
            **drawn.measures,
            "loss": 0.0,
            "entropy_nats": 0.0,
            "tokens": num_tokens,
            "rollout_seconds": self._drawn_at - began,
        }
        return [{"rows": part} for part in self._split(rows, num_batches)], num_tokens

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Float[Tensor, ""]:
        """The weighted loss of one micro-batch, times the processes that share the step."""
        num_tokens = max(int(num_items_in_batch or 0), 1)
        loss = through(model, self.model, partial(self._loss, inputs["rows"], num_tokens))
        return self.ranks.count * loss

    def _loss(self, rows: Rows, num_tokens: int) -> Float[Tensor, ""]:
        """The weighted loss of one micro-batch, divided by the tokens of the whole step."""
        if not len(rows.input_ids_BS):  # documents fitted into fewer rows than micro-batches
            moved = [w for w in self.model.parameters() if w.requires_grad]
            return torch.stack([0.0 * w.sum() for w in moved]).sum()
        with self._autocast():
            logits = logits_of(self.model, rows)
            teacher_logits = None
            if self.teacher is not None:
                with torch.inference_mode():
                    teacher_logits = logits_of(self.teacher, rows)
        streams = self.objective(rows.batch, **self.recipe.objective.settings)
        loss = token_loss(
            logits, rows.batch, streams, num_tokens=num_tokens, teacher_logits_BTV=teacher_logits
        )
        value = float(loss.value.detach())
        # Among several processes all have to stop at once: their common gradient tells.
        if self.ranks.count == 1 and not torch.isfinite(loss.value.detach()):
            raise self.not_finite(str(value))
        self.measures["loss"] += value
        self.measures["entropy_nats"] += float(loss.entropy_sum_nats) / num_tokens
        self.measures["training_seconds"] = time.perf_counter() - self._drawn_at
        return loss.value

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's estimate needs its own names of the inputs."""
        return 0

    def finish_step(self) -> dict[str, float]:
        """The measures of the step that just ended, of all processes, its training time complete.

        The loss and the entropy are sums over the processes' rows; all else is their mean, each
        process weighing as much as its rows.
        """
        self.measures["training_seconds"] = time.perf_counter() - self._drawn_at
        if self.ranks.count > 1:
            sums = {"loss", "entropy_nats"}
            weighed = [v * (1 if k in sums else self._weight) for k, v in self.measures.items()]
            *totals, weight = self.ranks.total([*weighed, self._weight])
            for (key, _), total in zip(list(self.measures.items()), totals, strict=True):
                self.measures[key] = total / (1 if key in sums else weight)
            self.measures["tokens"] = round(self.measures["tokens"])
        return self.measures

    def _clip_grad_norm(self, model: PreTrainedModel) -> Tensor:
        """Stop before a step that would break the weights, while the last good ones are there."""
        norm: Tensor = super()._clip_grad_norm(model)
        if not torch.isfinite(norm):
            raise self.not_finite(f"a gradient of norm {float(norm)}")
        return norm

    def save_optimizer(self, folder: Path) -> None:
        """Write the optimizer's state and its schedule into a folder."""
        self._save_optimizer_and_scheduler(str(folder))

    def keep_state(self) -> None:
        """Write a state to continue from, unless the last step has left one."""
        if self.states.latest() != self.states.path(self.state.global_step):
            self._save_checkpoint(self.model_wrapped)

    def _save_checkpoint(self, model: PreTrainedModel, trial: object = None) -> None:
        """Write a state to continue from: Trainer's own, and what the run remembers beside it."""
        with self.states.writing(self.state.global_step, self.ranks):
            super()._save_checkpoint(model, trial)

    def _drawn(self) -> Drawn:
        """The rows of the next step; weights that broke in the last one show when sampled from."""
        try:
            drawn = self.source.draw(self.model, self.state.global_step + 1)
            parts = 1 if drawn.is_share else self.ranks.count
            rows = self._split(drawn.rows, parts)[self.ranks.index if parts > 1 else 0]
            self._weight = len(rows.input_ids_BS)
            return drawn._replace(rows=rows)
        except RuntimeError as error:
            if all(bool(w.isfinite().all()) for w in self.model.parameters()):
                raise
            raise self.not_finite("weights that are not finite") from error

    def _autocast(self) -> AbstractContextManager[Any]:
        """Lower precision for the products only, where the recipe asks for it."""
        enabled = self.recipe.precision.autocast == "bfloat16"
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _split(self, rows: Rows, num_parts: int) -> list[Rows]:
        """Micro-batches of whole groups."""
        rewards = rows.batch.rewards_PG
        group = rewards.shape[1] if rewards is not None else 1
        num_groups = len(rows.input_ids_BS) // group
        edges = [group * (num_groups * i // num_parts) for i in range(num_parts + 1)]
        return [rows.part(slice(a, b)) for a, b in pairwise(edges)]

    def not_finite(self, found: str) -> NumericsError:
        """The error of a run that left what numbers can hold."""
        return NumericsError(
            f"run {self.recipe.run_name}, step {self.state.global_step + 1}",
            expected="a finite loss",
            found=found,
            do="lower optimizer.lr or clip_norm and run again; until then the checkpoints before "
            "this step are kept for inspection",
        )


def logits_of(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "B T V"]:
    """The logits that predict `rows.batch.tokens_BT`, documents of a row kept apart."""
    ids_BT = rows.input_ids_BS[:, :-1]
    mask = None
    if rows.document_ids_BS is not None:
        mask = attention_bias(rows.document_ids_BS[:, :-1])
    positions_BT = rows.position_ids_BS[:, :-1]
    output = model(
        input_ids=ids_BT, position_ids=positions_BT, attention_mask=mask, use_cache=False
    )
    logits: Float[Tensor, "B T V"] = output.logits
    return logits


def _no_deepspeed() -> UsageError:
    """Refuse what would train, but not as promised."""
    return UsageError(
        "the configuration of accelerate",
        expected="processes that share a step (DDP), or FSDP",
        found="DeepSpeed, whose engine clips, steps and saves by itself: gradients that are not "
        "finite would not stop the run, nor would it continue bit for bit",
        do="choose MULTI_GPU or FSDP in `accelerate config`, or launch with torchrun",
    )


def _arguments(recipe: Recipe, scratch: str) -> TrainingArguments:
    """Trainer's settings from the recipe's; saving, logging and stopping are the recorder's."""
    optimizer = recipe.optimizer
    return TrainingArguments(
        output_dir=scratch,
        max_steps=recipe.steps.max,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=optimizer.micro_batches,
        optim="adamw_torch",
        learning_rate=optimizer.lr,
        lr_scheduler_type={"constant": "constant_with_warmup", "cosine": "cosine"}[
            optimizer.schedule
        ],
        warmup_steps=optimizer.warmup_steps,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.clip_norm,
        seed=recipe.seed,
        use_cpu=recipe.precision.device == "cpu" or not torch.accelerator.is_available(),
        bf16=False,
        dataloader_pin_memory=False,
        logging_nan_inf_filter=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
