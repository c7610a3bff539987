"""The one training loop: `transformers.Trainer` with the one loss of `offaxis.objectives`.

Everything is trained here: base, teacher and anchor by cross-entropy on documents, the arms by
their objectives. The hooks are the public ones: `get_batch_samples` draws the rows of a step,
`compute_loss` weighs them, and `loss_is_scaled_for_ga` says that the loss is already normalised.

Shapes: B rows, S tokens of a row, T = S - 1.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from offaxis.errors import NumericsError
from offaxis.objectives.base import Objective
from offaxis.recipe import Recipe
from offaxis.training.arguments import Steps, no_deepspeed, trainer_arguments
from offaxis.training.confinement import Confinement
from offaxis.training.losses import LossModels, loss_of
from offaxis.training.measures import of_all
from offaxis.training.mixing import Mixture
from offaxis.training.optimizers import new_optimizer
from offaxis.training.products import bfloat16_products
from offaxis.training.ranks import Ranks, through
from offaxis.training.resume import States
from offaxis.training.rows import Rows
from offaxis.training.sources import Drawn, Source
from offaxis.training.weighing import Weigher


class StreamTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trainer with rows from a source and a loss from an objective.

    After each optimizer step `measures` holds what the log says of it: loss, entropy_nats, tokens,
    mismatch_kl_nats of rollouts (KL(sampler || student), `objectives.importance`), the seconds of
    rollouts, rewards, teacher and training; what the source adds (reward, response_length, age),
    the weighing (kept_tokens, gradients of a mixture's components) and the confinement
    (update_norm, relative_update_norm; leakage in a subspace).
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
        num_ids: int | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.recipe, self.source, self.states = recipe, source, states
        self.ranks = ranks or Ranks()
        num_batches = recipe.steps.max * recipe.optimizer.micro_batches
        super().__init__(
            model=model,
            args=trainer_arguments(recipe, str(states.making)),
            train_dataset=Steps(num_batches * self.ranks.count),
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        if self.is_deepspeed_enabled:
            raise no_deepspeed()
        if recipe.precision.gradient_checkpointing:
            # transformers 5.23 has renamed it, and warns.
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            again = next(getattr(model, name) for name in names if hasattr(model, name))
            again({"use_reentrant": False, "context_fn": self._recomputing})
        self.models = LossModels.of(model, recipe, objective, teacher=teacher, num_ids=num_ids)
        self.weigher = Weigher(recipe, objective, num_ids)
        self.optimizer: torch.optim.Optimizer | None
        self.confinement: Confinement | None = None
        self.measures: dict[str, float] = {}
        self._drawn_at = 0.0
        self._weight = 0

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
        self._drawn_at, self.models.teacher_seconds = time.perf_counter(), 0.0
        parts = rows.split(num_batches)
        with self._autocast():
            weighed = self.weigher.weigh(
                rows,
                parts,
                student=self.model,
                teacher=self.models.teacher,
                step=self.state.global_step + 1,
                first_row=drawn.first_row or 0,
            )
        num_tokens, normaliser = self.ranks.total(
            [float(rows.batch.mask_BT.sum()), weighed.normaliser]
        )
        elsewhere = sum(drawn.measures.get(f"{k}_seconds", 0.0) for k in ("reward", "teacher"))
        self.measures = {
            **drawn.measures,
            **weighed.measures,
            "loss": 0.0,
            "entropy_nats": 0.0,
            "tokens": round(num_tokens),
            "rollout_seconds": self._drawn_at - began - elsewhere,
        }
        self.mixture = Mixture.of(self.model, weighed.rows, num_batches, self.ranks)
        return [{"rows": weighed.rows.part(part)} for part in parts], normaliser

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | float | None = None,
    ) -> Float[Tensor, ""]:
        """The weighted loss of one micro-batch, times the processes that share the step."""
        num_tokens = float(num_items_in_batch or 0) or 1.0  # 0 where nothing carries a loss
        loss = through(model, self.model, partial(self._step_loss, inputs["rows"], num_tokens))
        return self.ranks.count * loss

    def _step_loss(self, rows: Rows, num_tokens: float) -> Float[Tensor, ""]:
        """The weighted loss of one micro-batch, divided by what the whole step is divided by."""
        if len(rows.input_ids_BS):
            loss = self._weighed(rows, num_tokens)
        else:  # there were fewer rows than micro-batches
            moved = [w for w in self.model.parameters() if w.requires_grad]
            loss = torch.stack([0.0 * w.sum() for w in moved]).sum()
        if not rows.components:
            return loss
        is_matched = self.recipe.objective.settings.get("match_norms")
        mixed, measures = self.mixture.finished(loss, rows.components, match=is_matched)
        self.measures |= measures
        return mixed

    def _weighed(self, rows: Rows, num_tokens: float) -> Float[Tensor, ""]:
        """The loss of some rows, measured; of a mixture also the gradients of its components."""
        assert rows.streams is not None
        with self._autocast():
            taught = self.models.teacher_seconds
            heads = self.models.heads(self.model, rows)
            loss = loss_of(heads, rows, rows.streams, num_tokens)
            for name, component in rows.components.items():
                self.mixture.add(name, loss_of(heads, rows, component.streams, num_tokens).value)
        value = float(loss.value.detach())
        # Among several processes all have to stop at once: their common gradient tells.
        if self.ranks.count == 1 and not torch.isfinite(loss.value.detach()):
            raise self.not_finite(str(value))
        self._add("loss", value)
        tokens = max(self.measures["tokens"], 1)
        self._add("entropy_nats", float(loss.entropy_sum_nats) / tokens)
        if rows.batch.sampled_logprobs_BT is not None:
            self._add("mismatch_kl_nats", float(loss.mismatch_sum_nats) / tokens)
        if "teacher" in heads:
            self._add("teacher_seconds", self.models.teacher_seconds - taught)
        self._time_training()
        return loss.value

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's estimate needs its own names of the inputs."""
        return 0

    def finish_step(self) -> dict[str, float]:
        """The measures of the step that just ended, of all processes, its training time complete.

        Sums are added up over the processes; all else is their mean, each process weighing as much
        as its rows.
        """
        assert self.confinement is not None
        self.measures |= self.confinement.measures()
        self._time_training()
        if self.ranks.count > 1:
            self.measures = of_all(self.ranks.gathered((self._weight, self.measures)))
        return self.measures

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        """The recipe's optimizer, over what the confinement lets it hold."""
        if self.optimizer is None:
            model = model or self.model
            decayed = self.get_decay_parameter_names(model)
            confinement = self.confinement = self.confinement or Confinement(model)
            optimizer = new_optimizer(self.recipe.optimizer, model, confinement.held, decayed)
            is_stochastic = self.recipe.precision.stochastic_rounding
            confinement.attach(optimizer, rounding_seed=self.recipe.seed if is_stochastic else None)
            self.optimizer = optimizer
        return self.optimizer

    def first_gradients(self) -> None:
        """Leave the gradient of the objective on the first step's rows in the parameters."""
        num_parts = self.recipe.optimizer.micro_batches
        parts, num_tokens = self.get_batch_samples(iter(()), num_parts, self.model.device)
        for part in parts:
            self.compute_loss(self.model, part, num_items_in_batch=num_tokens).backward()
        # Nothing is wrapped yet that would take the mean over the processes.
        gradients = [w.grad for w in self.model.parameters() if w.grad is not None]
        self.ranks.add_up(gradients)
        torch._foreach_div_(gradients, self.ranks.count)

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
            if drawn.first_row is None:
                own = drawn.rows.split(self.ranks.count)[self.ranks.index]
                drawn = drawn._replace(rows=drawn.rows.part(own), first_row=own.start)
            self._weight = len(drawn.rows.input_ids_BS)
            return drawn
        except RuntimeError as error:
            if all(bool(w.isfinite().all()) for w in self.model.parameters()):
                raise
            raise self.not_finite("weights that are not finite") from error

    def _time_training(self) -> None:
        """The seconds since the rows were there, but for those of the teacher."""
        seconds = time.perf_counter() - self._drawn_at
        self.measures["training_seconds"] = seconds - self.models.teacher_seconds

    def _add(self, name: str, value: float) -> None:
        self.measures[name] = self.measures.get(name, 0.0) + value

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        """Lower precision for the products only, where the recipe asks for it."""
        enabled, device = self.recipe.precision.autocast == "bfloat16", self.model.device.type
        with (
            torch.autocast(device, dtype=torch.bfloat16, enabled=enabled),
            bfloat16_products(wanted=enabled and device == "cpu"),
        ):
            yield

    def _recomputing(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """Beside a layer's forward pass, and its second one: torch keeps autocast for it alone."""
        precision = self.recipe.precision
        is_narrow = "bfloat16" in (precision.autocast, precision.weights)
        on_cpu = self.model.device.type == "cpu"
        return nullcontext(), bfloat16_products(wanted=is_narrow and on_cpu)

    def not_finite(self, found: str) -> NumericsError:
        """The error of a run that left what numbers can hold."""
        return NumericsError(
            f"run {self.recipe.run_name}, step {self.state.global_step + 1}",
            expected="a finite loss",
            found=found,
            do="lower optimizer.lr or clip_norm and run again; until then the checkpoints before "
            "this step are kept for inspection",
        )
