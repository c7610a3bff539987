"""Two-sided and exact: W = W0 + U M V', and the optimizer holds M alone."""

import torch
from torch.nn import Parameter

from offaxis.linalg.confinement import core_of
from offaxis.linalg.shards import placed_as
from offaxis.training.constraints.base import Confined


class CoreForm:
    """Trains the r x r core of one matrix.

    The gradient of M is U' G V, so the steps are those of a module W0 + U M V' whose M alone is a
    parameter, but W stays a plain tensor: rollouts, checkpoints and what reads them see nothing
    unusual, and where W is sharded r x r numbers are summed over the processes.
    """

    def __init__(self, of: Confined) -> None:
        if of.U is None:
            raise ValueError("the core needs directions of outputs, too")
        self.weight, self.start, self.V, self.U = of.weight, of.start, of.V, of.U
        self.held = Parameter(torch.zeros(of.U.shape[1], of.V.shape[1]).to(of.V))

    def before_step(self) -> None:
        """Give M the gradient U' G V."""
        if self.weight.grad is not None:
            self.held.grad = core_of(self.weight.grad, self.U, self.V)

    def after_step(self) -> None:
        """Write W0 + U M V'."""
        left = placed_as(self.start, self.U @ self.held.detach())
        self.weight.copy_(self.start + left @ placed_as(self.start, self.V).T)

    def rescale(self, factor: float) -> None:
        """Scale M."""
        self.held.mul_(factor)
        self.after_step()
