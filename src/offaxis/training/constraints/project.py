"""Any step, then the update is projected back: W0 + P(W - W0)."""

from offaxis.linalg.confinement import projected
from offaxis.training.constraints.base import Confined, rescale_update


class ProjectForm:
    """Projects the update of one matrix after each step, on inputs or on inputs and outputs.

    Exact in float32; weights kept in bfloat16 round the projection away again in part.
    """

    def __init__(self, of: Confined) -> None:
        self.held, self.start, self.V, self.U = of.weight, of.start, of.V, of.U

    def before_step(self) -> None:
        """Leave the gradient to the optimizer."""

    def after_step(self) -> None:
        """Project the update."""
        start = self.start.to(self.V)
        self.held.copy_(start + projected(self.held.to(self.V) - start, self.V, self.U))

    def rescale(self, factor: float) -> None:
        """Scale the update about the start."""
        rescale_update(self.held, self.start, factor)
