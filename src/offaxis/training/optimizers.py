"""The optimizer of a recipe, over what is trained or held in its place."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import Module, Parameter

from offaxis.recipe import Optimizer


def new_optimizer(
    choice: Optimizer, model: Module, held: Mapping[str, Parameter], decayed: list[str]
) -> torch.optim.Optimizer:
    """Make the optimizer of a run.

    Its state has the dtype and the size of what it holds: coordinates of a subspace in place of
    their matrix, bfloat16 for weights that are.

    Args:
        choice: The recipe's table.
        model: The model; what needs no gradient is left out.
        held: What stands in for a parameter, by its name.
        decayed: The names of the parameters that weight decay pulls at.
    """
    trained = {name: w for name, w in model.named_parameters() if w.requires_grad}
    pulled, free = (
        [held.get(name, w) for name, w in trained.items() if (name in decayed) is is_pulled]
        for is_pulled in (True, False)
    )
    groups: list[dict[str, Any]] = [
        {"params": pulled, "weight_decay": choice.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if choice.kind == "sgd":
        return torch.optim.SGD(groups, lr=choice.lr, momentum=choice.momentum)
    return torch.optim.AdamW(
        groups,
        lr=choice.lr,
        betas=(choice.beta1, choice.beta2),
        eps=choice.epsilon,
        fused=_is_fusable([*pulled, *free]) or None,
    )


def _is_fusable(weights: Sequence[Parameter]) -> bool:
    """Whether torch steps such weights in one pass over the memory; it says so at a step alone."""
    probes = [
        torch.zeros(1, device=device, dtype=dtype, requires_grad=True)
        for device, dtype in {(w.device, w.dtype) for w in weights}
    ]
    for probe in probes:
        probe.grad = torch.zeros_like(probe)
    try:
        torch.optim.AdamW(probes, fused=True).step()
    except RuntimeError:
        return False
    return True
