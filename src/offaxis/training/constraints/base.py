"""What a constraint is: something that acts on either side of the optimizer's step."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter


@runtime_checkable
class Constraint(Protocol):
    """Acts before and after each step, says what it saw, and can go on where it was left."""

    def before_step(self) -> None:
        """Act on the gradients, which are there and clipped."""
        ...

    def after_step(self) -> None:
        """Act on the weights, which the optimizer has moved."""
        ...

    def measures(self) -> dict[str, float]:
        """What the log says of the step that ended."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What cannot be told from the weights and the recipe; tensors and numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


class Confined(NamedTuple):
    """A weight matrix, its start, and the directions its update shall keep to.

    Attributes:
        weight: The matrix in the model, m x n.
        start: Its start; it may be sharded as the weight is.
        V: Orthonormal directions of its inputs, whole in every process.
        U: Those of its outputs, where they are constrained, too.
    """

    weight: Parameter
    start: Float[Tensor, "m n"]
    V: Float[Tensor, "n r"]
    U: Float[Tensor, "m r"] | None = None


class Form(Protocol):
    """How one matrix is kept in its subspace.

    Attributes:
        held: What the optimizer holds: the weight itself, or coordinates of its update.
    """

    held: Parameter

    def before_step(self) -> None:
        """Bring the gradient of the weight to what the optimizer holds."""
        ...

    def after_step(self) -> None:
        """Bring what the optimizer holds to the weight."""
        ...

    def rescale(self, factor: float) -> None:
        """Make the update `factor` times as large, in the weight and in what is held."""
        ...


def rescale_update(weight: Parameter, start: Float[Tensor, "m n"], factor: float) -> None:
    """Make the update of a weight `factor` times as large, in place."""
    base = start.float()
    weight.copy_(base + factor * (weight.float() - base))
