"""How far a run's layer matrices are from where they started."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module, Parameter

from offaxis.checkpoints.views import layer_and_role
from offaxis.linalg.shards import whole


def layer_matrices(model: Module) -> dict[str, Parameter]:
    """The weight matrices inside the layers, by name: no embeddings, no head, no norms."""
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and layer_and_role(name)[0] is not None
    }


def chosen(matrices: Mapping[str, Parameter], patterns: list[str]) -> dict[str, Parameter]:
    """The matrices whose names match one of the glob patterns."""
    return {
        name: weight
        for name, weight in matrices.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


class Update:
    """The layer matrices and a copy of their start.

    The copy is what it costs to know an update's norm at every step: as much memory again as the
    weights of the layers, and one pass over them a step.
    """

    def __init__(self, weights: Mapping[str, Parameter]) -> None:
        self.weights = dict(weights)
        self.starts = {name: weight.detach().clone() for name, weight in weights.items()}
        self.start_norm = _norm(self.starts.values())

    def of(self, name: str) -> Float[Tensor, "m n"]:
        """The update of one matrix, W - W0, at least in float32."""
        weight, start = self.weights[name].detach(), self.starts[name]
        return weight - start if weight.dtype == torch.float32 else weight.float() - start.float()

    def norm(self, names: Iterable[str] | None = None) -> float:
        """The Frobenius norm of the update over some or all layer matrices; 0 for none."""
        return _norm(self.of(name) for name in (self.weights if names is None else names))

    def measures(self) -> dict[str, float]:
        """`update_norm`, and `relative_update_norm`, its ratio to the norm of the start.

        The ratio is 0 where the start is zero.
        """
        norm = self.norm()
        relative = norm / self.start_norm if self.start_norm else 0.0
        return {"update_norm": norm, "relative_update_norm": relative}


def _norm(matrices: Iterable[Tensor]) -> float:
    """The root of the sum of all squares, each matrix in float32, their sum in float64."""
    norms = [whole(torch.linalg.vector_norm(matrix, dtype=torch.float32)) for matrix in matrices]
    return float(torch.stack(norms).double().norm()) if norms else 0.0
