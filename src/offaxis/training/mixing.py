"""The gradients of the objectives that a mixture is made of: how long, how alike, and matched."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module, Parameter

from offaxis.objectives.base import Component
from offaxis.training.ranks import Ranks
from offaxis.training.rows import Rows


class Mixture:
    """Adds up the gradient of every component over the micro-batches of a step.

    Each costs a backward pass of its own beside the mixture's, and memory of the size of the
    trained weights.

    Args:
        weights: What is trained.
        num_batches: Micro-batches of the step.
        ranks: This process among those that share the step.
    """

    def __init__(
        self, weights: Sequence[Parameter], num_batches: int, ranks: Ranks | None = None
    ) -> None:
        self.weights, self.left, self.ranks = weights, num_batches, ranks or Ranks()
        self.gradients: dict[str, list[Tensor]] = {}

    @classmethod
    def of(cls, model: Module, rows: Rows, num_batches: int, ranks: Ranks) -> "Mixture":
        """The mixture of a step; it holds nothing where the objective has no components."""
        trained = [w for w in model.parameters() if w.requires_grad] if rows.components else []
        return cls(trained, num_batches, ranks)

    def add(self, name: str, loss: Float[Tensor, ""]) -> None:
        """Add the gradient of one component's loss on one micro-batch."""
        found = torch.autograd.grad(loss, self.weights, retain_graph=True, allow_unused=True)
        parts = [
            torch.zeros_like(w) if g is None else g
            for w, g in zip(self.weights, found, strict=True)
        ]
        held = self.gradients.setdefault(name, parts)
        if held is not parts:
            torch._foreach_add_(held, parts)

    def finished(
        self, mixed: Float[Tensor, ""], components: Mapping[str, Component], *, match: bool | None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """What to differentiate for this micro-batch, and after the last one what the log says.

        Args:
            mixed: The mixture's own loss.
            components: Its components, with their weights.
            match: Whether all gradients are brought to the norm of the first before they are
                weighed. The loss then is one whose gradient is theirs, and only the last
                micro-batch has it.
        """
        self.left -= 1
        if not self.left:
            for gradient in self.gradients.values():
                self.ranks.add_up(gradient)
        measures = {} if self.left else self._measures()
        if not match:
            return mixed, measures
        if self.left:
            return torch.zeros_like(mixed, requires_grad=True), measures
        norms = [_norm(gradient) for gradient in self.gradients.values()]
        total = mixed.new_zeros(())
        for (name, gradient), norm in zip(self.gradients.items(), norms, strict=True):
            scale = components[name].weight * (norms[0] / norm if norm > 0 else 0.0)
            for weight, part in zip(self.weights, gradient, strict=True):
                total = total + scale * (weight * part).sum()
        # Every process has the gradient of all of them, and these are added up again.
        return total / self.ranks.count, measures

    def _measures(self) -> dict[str, float]:
        """Norms of the components' gradients before clipping, and the cosine of each two."""
        norms = {name: _norm(gradient) for name, gradient in self.gradients.items()}
        found = {f"gradient_norm_{name}": norm for name, norm in norms.items()}
        for one, other in combinations(norms, 2):
            product = sum(
                float((a.double() * b.double()).sum())
                for a, b in zip(self.gradients[one], self.gradients[other], strict=True)
            )
            length = norms[one] * norms[other]
            found["component_cosine"] = product / length if length > 0 else 0.0
        return found


def _norm(gradient: Sequence[Tensor]) -> float:
    """The Frobenius norm over all weights."""
    return math.sqrt(sum(float(part.double().square().sum()) for part in gradient))
