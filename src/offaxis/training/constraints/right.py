"""One-sided and exact: W = W0 + B V', and the optimizer holds B alone."""

import torch
from torch.nn import Parameter

from offaxis.linalg.shards import placed_as
from offaxis.training.constraints.base import Confined


class RightForm:
    """Trains the m x r coordinates of one matrix's update along r directions of its inputs."""

    def __init__(self, of: Confined) -> None:
        self.weight, self.start, self.V = of.weight, of.start, of.V
        # Zeros, sharded as the weight is.
        self.held = Parameter(torch.zeros_like(of.start) @ placed_as(of.start, of.V))

    def before_step(self) -> None:
        """Give B the gradient G V."""
        grad = self.weight.grad
        if grad is not None:
            self.held.grad = grad @ placed_as(grad, self.V)

    def after_step(self) -> None:
        """Write W0 + B V'."""
        self.weight.copy_(self.start + self.held.detach() @ placed_as(self.start, self.V).T)

    def rescale(self, factor: float) -> None:
        """Scale B."""
        self.held.mul_(factor)
        self.after_step()
