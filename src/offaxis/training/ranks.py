"""Several processes on one step: each takes its share of the rows, and they add up.

Started by `torchrun` or `accelerate launch`, every process draws the same window of prompts or
documents, keyed by seed and step, and learns from its own part of it. The loss is divided by the
tokens of the whole window, so gradients have to be summed; `DistributedDataParallel` takes their
mean, hence the factor `count` on the loss.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        index: Which one it is, from 0; the first writes and speaks.
        count: How many they are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def joined(cls, *, on_cpu: bool) -> "Ranks":
        """Meet the other processes, where a launcher has started some."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        state = PartialState(cpu=on_cpu)
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0

    def share(self, length: int) -> slice:
        """This process's part of so many things in order."""
        return slice(length * self.index // self.count, length * (self.index + 1) // self.count)

    def wait(self) -> None:
        """Wait until every process has come this far."""
        if self.count > 1:
            dist.barrier()

    def any(self, facts: Sequence[bool]) -> list[bool]:
        """Which facts hold for at least one process."""
        return [bool(fact) for fact in self._reduced([float(f) for f in facts], dist.ReduceOp.MAX)]

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, in float64."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their sums over the processes."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def gathered(self, item: T) -> list[T]:
        """What every process has, in their order."""
        if self.count == 1:
            return [item]
        items: list[Any] = [None] * self.count
        dist.all_gather_object(items, item)
        return items

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:  # noqa: ANN401
        if self.count == 1:
            return list(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        held = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(held, operation)
        return [float(value) for value in held]


def whole_state(model: nn.Module) -> dict[str, Any] | None:
    """The gathered weights of a model that `fully_shard` has split; None where it is whole.

    Every process has to ask; the first one is given the weights, in the memory of the host.
    """
    if not any(isinstance(w, DTensor) for w in model.parameters()):
        return None
    return get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )


def through(wrapper: nn.Module, model: nn.Module, function: Callable[[], T]) -> T:
    """Call a function as the forward pass of a wrapped model.

    `DistributedDataParallel` and `fully_shard` prepare gradients and weights in the wrapper's
    forward pass; a loss that reads the model's parts directly would go past them, without an error.

    Args:
        wrapper: What was made of the model: around it, the model itself with hooks, or the model.
        model: The model.
        function: Computes with the model, through its forward pass or past it.
    """
    before = vars(model).get("forward")

    def restore() -> None:
        if before is None:
            vars(model).pop("forward", None)
        else:
            model.forward = before

    def redirected(*_: object, **__: object) -> T:
        restore()
        return function()

    model.forward = redirected
    try:
        result: T = wrapper()
    finally:
        restore()
    return result
