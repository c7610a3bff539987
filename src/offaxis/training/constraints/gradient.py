"""As published: the gradient is projected on the inputs' directions, then the optimizer steps."""

from offaxis.linalg.confinement import projected
from offaxis.training.constraints.base import Confined, rescale_update


class GradientForm:
    """Projects the gradient of one matrix, G V V', and leaves the step to the optimizer.

    The steps of SGD stay inside. Those of AdamW do not: it divides every entry by its own scale
    after the projection, and weight decay pulls at all of W. `leakage` says how much that makes.

    Source:
        arXiv:2606.07082, section 4.2 and appendix F.
    """

    def __init__(self, of: Confined) -> None:
        self.held, self.start, self.V = of.weight, of.start, of.V

    def before_step(self) -> None:
        """Project the gradient."""
        if self.held.grad is not None:
            self.held.grad.copy_(projected(self.held.grad.to(self.V), self.V))

    def after_step(self) -> None:
        """Leave what the optimizer did."""

    def rescale(self, factor: float) -> None:
        """Scale the update about the start."""
        rescale_update(self.held, self.start, factor)
