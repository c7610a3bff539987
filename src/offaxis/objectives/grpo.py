"""GRPO: reinforcement from verified rewards, with the group of a prompt as its own baseline."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from offaxis.objectives.base import Streams, TokenBatch, missing, objective

Below = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Above = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


@objective(
    rollouts=True,
    rewards=True,
    source="Shao et al. 2024, arXiv:2402.03300; clips and per-token mean of Yu et al. 2025, "
    "arXiv:2503.14476",
)
def grpo(batch: TokenBatch, *, clip_low: Below = 0.2, clip_high: Above = 0.28) -> Streams:
    """Clipped policy gradient on group-normalised rewards, averaged over tokens; no KL penalty.

    A rollout's advantage is its reward's distance from the mean of its group in standard deviations
    of the group, and every token of the rollout has it.
    """
    if batch.rewards_PG is None:
        raise missing("rewards")
    advantages_B1 = group_advantages(batch.rewards_PG).reshape(-1, 1)
    return Streams(
        advantages_BT=advantages_B1 * batch.mask_BT, clip_low=clip_low, clip_high=clip_high
    )


def group_advantages(rewards_PG: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """Standardise each group (population deviation); equal rewards give advantage zero.

    A reward that is NaN could not be judged: it is no part of its group's mean and deviation, and
    its own advantage is zero.
    """
    if rewards_PG.isnan().any():
        return torch.stack([_of_scorable(rewards_G) for rewards_G in rewards_PG])
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    deviation_P1 = rewards_PG.std(1, correction=0, keepdim=True)
    # Equal rewards can leave rounding in both; what is below float32's resolution is no preference.
    is_flat_P1 = deviation_P1 <= 1e-6 * rewards_PG.abs().amax(1, keepdim=True)
    return torch.where(is_flat_P1, 0.0, centred_PG / deviation_P1.clamp_min(1e-30))


def _of_scorable(rewards_G: Float[Tensor, "G"]) -> Float[Tensor, "G"]:
    """The advantages of one group in which some rewards may be missing."""
    is_scored = ~rewards_G.isnan()
    advantages_G = torch.zeros_like(rewards_G)
    if is_scored.any():
        advantages_G[is_scored] = group_advantages(rewards_G[is_scored][None])[0]
    return advantages_G
