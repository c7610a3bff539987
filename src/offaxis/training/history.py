"""Weights of earlier steps, so that rollouts can come from the student of exactly k steps ago."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from offaxis.errors import CheckpointError

# The weights that are trained, by name; a process of several keeps its own shards.
Weights = dict[str, Tensor]


class History:
    """The trainable weights before each of the last steps, in main memory.

    A lag of k keeps k + 1 copies: those from before each of the last k + 1 steps. During the first
    k steps nothing is that old, and the oldest is the start. Without a lag only the start is kept,
    for ever: the anchor.

    Args:
        lag: Optimizer steps between the weights asked for and those now; None for the start.
    """

    def __init__(self, lag: int | None) -> None:
        self.lag = lag
        self._kept: dict[int, Weights] = {}

    def record(self, model: PreTrainedModel, done: int) -> None:
        """Keep the weights as they are after `done` optimizer steps; a second time changes nothing.

        Raises:
            CheckpointError: If steps are missing between what is kept and now.
        """
        before = max(self._kept, default=-1)
        if self.lag is None and self._kept:
            return
        if done not in (before, before + 1):
            raise CheckpointError(
                f"step {done + 1}",
                expected="the weights of every earlier step that rollouts are to come from",
                found=f"those up to step {before}" if self._kept else "none",
                do="continue from a state that holds the history of the rollouts, or start again",
            )
        self._kept.setdefault(done, {n: _copy(p) for n, p in _trained(model)})
        if self.lag is not None:
            self._kept.pop(done - self.lag - 1, None)

    def age(self, done: int) -> int:
        """How many optimizer steps lie between the weights of `restored` and those now."""
        return done - min(self._kept)

    @contextmanager
    def restored(self, model: PreTrainedModel) -> Iterator[None]:
        """The model with its weights of then; those of now are put back, bit for bit."""
        then = self._kept[min(self._kept)]
        now = {name: _copy(parameter) for name, parameter in _trained(model)}
        _put(model, then)
        try:
            yield
        finally:
            _put(model, now)

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs: the weights by the number of steps they are from."""
        return {"kept": dict(self._kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where the run that gave the state was."""
        self._kept = dict(state["kept"])


def _trained(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    return ((n, p) for n, p in model.named_parameters() if p.requires_grad)


def _local(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter, which is all of it where nothing is sharded."""
    data = parameter.detach()
    return data.to_local() if isinstance(data, DTensor) else data


def _copy(parameter: Tensor) -> Tensor:
    return _local(parameter).to("cpu", copy=True)


def _put(model: PreTrainedModel, weights: Weights) -> None:
    with torch.no_grad():
        for name, parameter in _trained(model):
            _local(parameter).copy_(weights[name])
