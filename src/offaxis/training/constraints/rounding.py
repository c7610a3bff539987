"""bfloat16 weights whose steps are rounded stochastically."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from offaxis.engine.seeds import seed_for
from offaxis.linalg.shards import own
from offaxis.linalg.stochastic_rounding import rounded_stochastically


class StochasticRounding:
    """Lets an optimizer step from zero, and adds its step to the weights with random rounding.

    From zero the optimizer's step is kept to the eight bits that any bfloat16 number has; from the
    weights themselves it would be lost wherever it is below half an ulp of theirs. The sum of both
    is then rounded up or down at random, so that it is right on average.

    Args:
        optimizer: One that depends on its weights through weight decay alone: AdamW or SGD.
        seed: The key of the draws, with the number of the step. All processes draw alike, so that
            copies of a weight stay equal and shards of one share their draws.
    """

    def __init__(self, optimizer: Optimizer, seed: int) -> None:
        self.optimizer, self.seed, self.num_steps = optimizer, seed, 0
        self._before: list[tuple[Parameter, torch.Tensor, float]] = []

    def before_step(self) -> None:
        """Keep the weights and put the optimizer at zero; weight decay is done here for it."""
        for group in self.optimizer.param_groups:
            decay = group["weight_decay"]
            is_coupled = isinstance(self.optimizer, SGD)
            for weight in _moving(group["params"]):
                if is_coupled:
                    weight.grad.add_(weight, alpha=decay)
                kept = 1.0 if is_coupled else 1.0 - group["lr"] * decay
                self._before.append((weight, weight.detach().clone(), kept))
                weight.zero_()

    def after_step(self) -> None:
        """Add the step to the weights."""
        self.num_steps += 1
        generators: dict[torch.device, torch.Generator] = {}
        for weight, before, kept in self._before:
            if weight.device not in generators:
                seed = seed_for("stochastic rounding", self.seed, self.num_steps)
                generators[weight.device] = torch.Generator(weight.device).manual_seed(seed)
            mine = own(weight.detach())
            moved = kept * own(before).float() + mine.float()
            mine.copy_(rounded_stochastically(moved, generators[weight.device]))
        self._before.clear()

    def measures(self) -> dict[str, float]:
        """Nothing to say."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """How many steps were made."""
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many steps."""
        self.num_steps = state["num_steps"]


def _moving(weights: Sequence[Parameter]) -> list[Any]:
    """Those that have a gradient: the optimizer leaves the others alone, and so does decay."""
    return [weight for weight in weights if weight.grad is not None]
