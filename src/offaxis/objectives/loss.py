"""The one loss: three per-token streams and one normaliser.

    loss = 1/N sum_t [ w_ce CE_t + w_kl D_t(student, teacher) - min(r_t A_t, clip(r_t) A_t) ]

Every objective is a choice of the weights. N is the number of tokens that carry a loss in the whole
batch of one optimizer step, so that splitting the batch changes nothing.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from offaxis.objectives.base import Streams, TokenBatch, missing
from offaxis.objectives.divergences import DIVERGENCES


class Loss(NamedTuple):
    """The value to differentiate, and what the same pass knows of the student, detached.

    Attributes:
        value: The loss.
        entropy_sum_nats: The sum of the student's entropies on the mask.
        logprobs_BT: Log-probability (nats) of each token under the student.
    """

    value: Float[Tensor, ""]
    entropy_sum_nats: Float[Tensor, ""]
    logprobs_BT: Float[Tensor, "B T"]


def token_loss(
    logits_BTV: Float[Tensor, "B T V"],
    batch: TokenBatch,
    streams: Streams,
    *,
    num_tokens: int,
    teacher_logits_BTV: Float[Tensor, "B T V"] | None = None,
) -> Loss:
    """Weigh and add the three streams.

    Args:
        logits_BTV: The student's logits, each position predicting the token of the batch there.
        batch: The tokens and their mask; positions off the mask have no influence.
        streams: The weights, from an objective.
        num_tokens: The normaliser N, at least 1.
        teacher_logits_BTV: The teacher's logits where a divergence is weighed.

    Returns:
        The loss in float32; zero where no token carries one.

    Raises:
        NumericsError: If a stream needs what the batch does not have.
    """
    log_p_BTV = logits_BTV.float().log_softmax(-1)
    log_p_BT = log_p_BTV.gather(-1, batch.tokens_BT.unsqueeze(-1)).squeeze(-1)
    terms_BT = torch.zeros_like(log_p_BT)
    if streams.cross_entropy_BT is not None:
        terms_BT = terms_BT - streams.cross_entropy_BT * log_p_BT
    if streams.divergence_BT is not None:
        if teacher_logits_BTV is None:
            raise missing("teacher logits")
        teacher_BTV = teacher_logits_BTV.detach().float().log_softmax(-1)
        divergence = DIVERGENCES[streams.divergence]
        terms_BT = terms_BT + streams.divergence_BT * divergence(log_p_BTV, teacher_BTV)
    if streams.advantages_BT is not None:
        terms_BT = terms_BT - _clipped_gain(log_p_BT, batch, streams)
    if batch.importance_BT is not None:
        terms_BT = terms_BT * batch.importance_BT
    # `where`, not a product: an infinity off the mask must not become NaN on its way to zero.
    kept_BT = torch.where(batch.mask_BT, terms_BT, 0.0)
    with torch.no_grad():
        entropy_BT = -(log_p_BTV.exp() * log_p_BTV).sum(-1)
        entropy_sum = torch.where(batch.mask_BT, entropy_BT, 0.0).sum()
    return Loss(kept_BT.sum() / num_tokens, entropy_sum, log_p_BT.detach())


def _clipped_gain(
    log_p_BT: Float[Tensor, "B T"], batch: TokenBatch, streams: Streams
) -> Float[Tensor, "B T"]:
    """PPO's pessimistic gain: min(r A, clip(r) A), r the ratio to the sampling probability."""
    if batch.sampled_logprobs_BT is None:
        raise missing("sampled log-probabilities")
    assert streams.advantages_BT is not None
    ratio_BT = (log_p_BT - batch.sampled_logprobs_BT).exp()
    clipped_BT = ratio_BT.clamp(1 - streams.clip_low, 1 + streams.clip_high)
    return torch.minimum(ratio_BT * streams.advantages_BT, clipped_BT * streams.advantages_BT)
