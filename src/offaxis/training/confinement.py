"""What a run trains, what its optimizer holds of it, and how far it has moved."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Module, Parameter

from offaxis.training.constraints.base import Constraint
from offaxis.training.constraints.rounding import StochasticRounding
from offaxis.training.updates import Update, layer_matrices


class Confinement:
    """The constraints of a run around its optimizer's step, and the norm of its update.

    Made where the weights are the run's start. A run without constraints has one, too.

    Args:
        model: The model, on its device, with what is frozen frozen.
        update: Its layer matrices and their start.
        constraints: What acts on either side of a step, in order before and in reverse after it.
        held: What the optimizer holds in place of a parameter, by name.
    """

    def __init__(
        self,
        model: Module,
        update: Update | None = None,
        constraints: Sequence[Constraint] = (),
        held: dict[str, Parameter] | None = None,
    ) -> None:
        self.update = update or Update(layer_matrices(model))
        self.constraints = list(constraints)
        self.held = held or {}
        self.trainable_numbers = sum(
            self.held.get(name, weight).numel()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        )

    def attach(self, optimizer: torch.optim.Optimizer, *, rounding_seed: int | None = None) -> None:
        """Act around every step of an optimizer, whoever calls it.

        Args:
            optimizer: It holds `held` and what else is trained.
            rounding_seed: The key of stochastic rounding, None for rounding to nearest.
        """
        if rounding_seed is not None:
            self.constraints.append(StochasticRounding(optimizer, rounding_seed))
        optimizer.register_step_pre_hook(lambda *_: self._before_step())
        optimizer.register_step_post_hook(lambda *_: self._after_step())

    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """Norms of the update, and what the constraints say of the last step."""
        measures = self.update.measures()
        for constraint in self.constraints:
            measures |= constraint.measures()
        return measures

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside its start, its weights and its optimizer's state."""
        return {"constraints": [constraint.state_dict() for constraint in self.constraints]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, after `attach`."""
        for constraint, its_state in zip(self.constraints, state["constraints"], strict=True):
            constraint.load_state_dict(its_state)

    @torch.no_grad()
    def _before_step(self) -> None:
        for constraint in self.constraints:
            constraint.before_step()

    @torch.no_grad()
    def _after_step(self) -> None:
        for constraint in reversed(self.constraints):
            constraint.after_step()
