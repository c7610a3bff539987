"""No constraint: what freezing everything else does by itself."""

from offaxis.training.constraints.base import Confined, rescale_update


class UnconfinedForm:
    """Leaves gradient and update of one matrix alone."""

    def __init__(self, of: Confined) -> None:
        self.held, self.start = of.weight, of.start

    def before_step(self) -> None:
        """Leave the gradient to the optimizer."""

    def after_step(self) -> None:
        """Leave what the optimizer did."""

    def rescale(self, factor: float) -> None:
        """Scale the update about the start."""
        rescale_update(self.held, self.start, factor)
