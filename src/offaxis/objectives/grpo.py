"""GRPO: reinforcement from verified rewards, with the group of a prompt as its own baseline."""

from typing import Annotated, Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from offaxis.errors import NumericsError
from offaxis.objectives.base import Streams, TokenBatch, needed, objective

Below = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Above = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Normaliser = Literal["dapo", "grpo", "dr_grpo"]
Scale = Literal["std", "none"]


@objective(
    rollouts=True,
    rewards=True,
    source="Shao et al. 2024, arXiv:2402.03300; asymmetric clip, mean over tokens and dynamic "
    "filter of Yu et al. 2025, arXiv:2503.14476; constant normaliser of Liu et al. 2025, "
    "arXiv:2503.20783",
)
def grpo(
    batch: TokenBatch,
    *,
    clip_low: Below = 0.2,
    clip_high: Above = 0.28,
    normaliser: Normaliser = "dapo",
    scale: Scale | None = None,
    reference_kl: Above = 0.0,
    dynamic_filter: bool = False,
) -> Streams:
    """Clipped policy gradient on rewards compared within the group of a prompt.

    A rollout's advantage is its reward's distance from the mean of its group, in standard
    deviations of the group or as it is, and every token of the rollout has it. A rollout that could
    not be scored has no part in its group and carries no loss.

    Args:
        batch: Rollouts with their rewards.
        clip_low: The policy ratio is clipped at 1 - clip_low.
        clip_high: The policy ratio is clipped at 1 + clip_high.
        normaliser: Mean over all tokens (`dapo`), mean over sequences of each one's mean (`grpo`),
            or the sum over sequences times the most tokens one may have (`dr_grpo`).
        scale: Whether advantages are divided by the group's deviation; if not given, as in the
            source of the normaliser: not for `dr_grpo`.
        reference_kl: Weight of KL(student || reference) over the whole vocabulary, at each token.
        dynamic_filter: Leave groups whose rewards are all equal out of loss and normaliser.
    """
    rewards_PG = needed(batch.rewards_PG, "rewards")
    divisor = scale or ("none" if normaliser == "dr_grpo" else "std")
    advantages_PG = group_advantages(rewards_PG, divisor)
    is_counted_PG = ~rewards_PG.isnan()
    if dynamic_filter:
        is_counted_PG = is_counted_PG & ~flat_groups(rewards_PG)[:, None]
    weights_BT, total = _weights(batch, is_counted_PG, normaliser)
    return Streams(
        advantages_BT=advantages_PG.reshape(-1, 1) * weights_BT,
        reference_BT=reference_kl * weights_BT if reference_kl else None,
        clip_low=clip_low,
        clip_high=clip_high,
        normaliser=total,
    )


def _weights(
    batch: TokenBatch, is_counted_PG: Bool[Tensor, "P G"], normaliser: Normaliser
) -> tuple[Float[Tensor, "B T"], float]:
    """The weight of each token and what the weighted sum is divided by."""
    weights_BT = (batch.mask_BT & is_counted_PG.reshape(-1, 1)).float()
    if normaliser == "dapo":
        return weights_BT, float(weights_BT.sum())
    num_sequences = float(is_counted_PG.sum())
    if normaliser == "grpo":
        return weights_BT / weights_BT.sum(1, keepdim=True).clamp_min(1), num_sequences
    if not batch.max_tokens:
        raise NumericsError(
            "objectives.grpo",
            expected="a batch that says how many tokens a rollout may have, for dr_grpo",
            found="0",
            do="set max_tokens of the batch",
        )
    return weights_BT, num_sequences * batch.max_tokens


def group_advantages(
    rewards_PG: Float[Tensor, "P G"], scale: Scale = "std"
) -> Float[Tensor, "P G"]:
    """Centre each group and divide by its population deviation, or not at all.

    Equal rewards give advantage zero, and so does a reward that is NaN: the others are compared
    among themselves.
    """
    centred_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
    if scale == "std":
        deviation_P1 = centred_PG.square().nanmean(1, keepdim=True).sqrt()
        centred_PG = centred_PG / deviation_P1.clamp_min(1e-30)
    is_nothing_PG = flat_groups(rewards_PG)[:, None] | rewards_PG.isnan()
    return centred_PG.masked_fill(is_nothing_PG, 0.0)


def flat_groups(rewards_PG: Float[Tensor, "P G"]) -> Bool[Tensor, "P"]:
    """The groups whose rewards (those that are not NaN) prefer no rollout to another."""
    known_PG = rewards_PG.where(~rewards_PG.isnan(), rewards_PG.nanmean(1, keepdim=True))
    # Equal rewards can leave rounding; what is below float32's resolution is no preference.
    spread_P = known_PG.amax(1) - known_PG.amin(1)
    return ~(spread_P > 1e-6 * known_PG.abs().amax(1))
