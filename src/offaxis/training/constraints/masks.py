"""Training of chosen coordinates only: all others stay as they start, bit for bit."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from offaxis.linalg.shards import placed_as
from offaxis.training.updates import Update


class MaskConstraint:
    """Holds back every coordinate outside of the masks.

    Their gradients are zero, so that the optimizer's state sees nothing of them; and as weight
    decay moves weights without a gradient, they are restored after each step.

    Args:
        update: The layer matrices and their starts, where training starts.
        masks: Of each matrix, the coordinates that may move.

    Source:
        arXiv:2511.08567, appendix D; arXiv:2606.13657 on the restoring.
    """

    def __init__(self, update: Update, masks: Mapping[str, Bool[Tensor, "m n"]]) -> None:
        self.update = update
        self.masks = {name: mask.to(update.starts[name].device) for name, mask in masks.items()}

    def before_step(self) -> None:
        """Zero the gradients outside."""
        for name, mask in self.masks.items():
            grad = self.update.weights[name].grad
            if grad is not None:
                grad.mul_(placed_as(grad, mask))

    def after_step(self) -> None:
        """Restore the weights outside."""
        for name, mask in self.masks.items():
            weight, start = self.update.weights[name], self.update.starts[name]
            weight.copy_(torch.where(placed_as(start, mask), weight, start))

    def measures(self) -> dict[str, float]:
        """Nothing changes from step to step."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""
