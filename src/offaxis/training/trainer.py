"""The one training loop: `transformers.Trainer` with the one loss of `offaxis.objectives`.

Everything is trained here: base, teacher and anchor by cross-entropy on documents, the arms by
their objectives. The hooks are the public ones: `get_batch_samples` draws the rows of a step,
`compute_loss` weighs them, and `loss_is_scaled_for_ga` says that the loss is already normalised.

Shapes: B rows, S tokens of a row, T = S - 1.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
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

from offaxis.errors import NumericsError
from offaxis.objectives.base import Objective
from offaxis.objectives.loss import token_loss
from offaxis.recipe import Recipe
from offaxis.training.heads import check_head, facts_of, fixed_head, frozen, head_of, joined, shared
from offaxis.training.rows import Rows
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
        scratch: str,
        teacher: PreTrainedModel | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            model=model,
            args=_arguments(recipe, scratch),
            train_dataset=_Steps(recipe.steps.max * recipe.optimizer.micro_batches),
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        self.recipe, self.source, self.objective = recipe, source, objective
        self.teacher = teacher.eval().to(model.device) if teacher is not None else None
        self.reference: PreTrainedModel | None = None
        if objective.reads_reference(recipe.objective.settings):
            self.reference = frozen(model)
        for each in (model, teacher):
            if each is not None:
                check_head(each, recipe.run_name)
        self.measures: dict[str, float] = {}
        self._drawn_at = 0.0

    def get_batch_samples(
        self,
        epoch_iterator: Iterator[Any],
        num_batches: int,
        device: torch.device,
    ) -> tuple[list[dict[str, Any]], float]:
        """Draw the rows of the whole step and split them into micro-batches."""
        began = time.perf_counter()
        drawn = self._drawn()
        rows = drawn.rows.to(self.model.device)
        parts = self._split(rows, num_batches)
        rows = self._with_facts(rows, parts)
        num_tokens = int(rows.batch.mask_BT.sum())
        # Once for the whole step: no sum over sequences or groups may depend on how it is split.
        streams = self.objective(rows.batch, **self.recipe.objective.settings)
        self._drawn_at = time.perf_counter()
        self.measures = {
            **drawn.measures,
            "loss": 0.0,
            "entropy_nats": 0.0,
            "tokens": num_tokens,
            "rollout_seconds": self._drawn_at - began,
        }
        normaliser = float(num_tokens) if streams.normaliser is None else streams.normaliser
        rows = replace(rows, streams=streams)
        return [{"rows": rows.part(part)} for part in parts], normaliser

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | float | None = None,
    ) -> Float[Tensor, ""]:
        """The weighted loss of one micro-batch."""
        rows: Rows = inputs["rows"]
        streams = rows.streams
        assert streams is not None
        if not len(rows.input_ids_BS):  # documents fitted into fewer rows than micro-batches
            return torch.zeros((), device=rows.input_ids_BS.device, requires_grad=True)
        with self._autocast():
            heads = {"student": head_of(model, rows)}
            if self.teacher is not None and streams.divergence_BT is not None:
                heads["teacher"] = fixed_head(self.teacher, rows)
            if self.reference is not None and streams.reference_BT is not None:
                heads["reference"] = fixed_head(self.reference, rows)
            heads = shared(heads)
            loss = token_loss(
                heads["student"],
                rows.batch,
                streams,
                num_tokens=float(num_items_in_batch or 0) or 1.0,  # 0 where nothing carries a loss
                teacher=heads.get("teacher"),
                reference=heads.get("reference"),
            )
        value = float(loss.value.detach())
        if not torch.isfinite(loss.value.detach()):
            raise self.not_finite(str(value))
        self.measures["loss"] += value
        self.measures["entropy_nats"] += float(loss.entropy_sum_nats) / max(
            self.measures["tokens"], 1
        )
        self.measures["training_seconds"] = time.perf_counter() - self._drawn_at
        return loss.value

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's estimate needs its own names of the inputs."""
        return 0

    def finish_step(self) -> dict[str, float]:
        """The measures of the step that just ended, its training time complete."""
        self.measures["training_seconds"] = time.perf_counter() - self._drawn_at
        return self.measures

    def _drawn(self) -> Drawn:
        """The rows of the next step; weights that broke in the last one show when sampled from."""
        try:
            return self.source.draw(self.model, self.state.global_step + 1)
        except RuntimeError as error:
            if all(bool(w.isfinite().all()) for w in self.model.parameters()):
                raise
            raise self.not_finite("weights that are not finite") from error

    def _autocast(self) -> AbstractContextManager[Any]:
        """Lower precision for the products only, where the recipe asks for it."""
        enabled = self.recipe.precision.autocast == "bfloat16"
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _with_facts(self, rows: Rows, parts: Sequence[slice]) -> Rows:
        """The rows with the facts that the objective reads, taken micro-batch by micro-batch."""
        known = rows.batch
        if all(getattr(known, f"{fact}_BT") is not None for fact in self.objective.facts):
            return rows
        filled = [rows.part(part) for part in parts if part.start < part.stop]
        with self._autocast():
            batches = [facts_of(self.model, part, self.teacher) for part in filled]
        return replace(rows, batch=joined(rows.batch, batches))

    def _split(self, rows: Rows, num_parts: int) -> list[slice]:
        """Micro-batches of whole groups."""
        rewards = rows.batch.rewards_PG
        group = rewards.shape[1] if rewards is not None else 1
        num_groups = len(rows.input_ids_BS) // group
        edges = [group * (num_groups * i // num_parts) for i in range(num_parts + 1)]
        return [slice(a, b) for a, b in pairwise(edges)]

    def not_finite(self, found: str) -> NumericsError:
        """The error of a run that left what numbers can hold."""
        return NumericsError(
            f"run {self.recipe.run_name}, step {self.state.global_step + 1}",
            expected="a finite loss",
            found=found,
            do="lower optimizer.lr or clip_norm and run again; until then the checkpoints before "
            "this step are kept for inspection",
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
