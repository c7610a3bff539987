"""Samples from other weights than the student's: how far they are off, and how to weigh them.

Three things can be asked of a token that was sampled some steps ago, from the anchor or from the
teacher, and each is a setting of a recipe:

- No correction (`importance = "none"`, `proximal = "student"`). The token is taken as if the
  student had sampled it now. A policy ratio then begins at one, so a clip never acts.
- The objective's own (`importance = "none"`, `proximal = "sampler"`, the default). Cross-entropy
  and divergences have none and stay uncorrected. A clipped policy gradient takes its ratio to the
  recorded sampling probability, which corrects each token for itself, within the clip (PPO).
- By weights (`importance = "token"` or `"sequence"`). Every term is weighed with the ratio of the
  student's probability now to the recorded one, truncated from above. A policy ratio is then taken
  to the student at the beginning of the step, or the same ratio would count twice: the decoupled
  form, in which the weights correct for the sampler and the clip bounds the step.

The ratio of its own token is a biased weight of small variance: it leaves the distribution of the
prefix uncorrected, and a full-vocabulary divergence, which does not depend on the token sampled,
has only that to correct. The ratio of the whole sequence corrects that too, at a variance that
grows with its length and a bias from the truncation.

Recorded probabilities are those of unscaled logits: at a sampling temperature other than 1 the
weights correct for other weights, not for the temperature.

Sources: truncated importance sampling, Ionides 2008 (J. Comput. Graph. Stat. 17:295); its use for
rollouts, Espeholt et al. 2018, arXiv:1802.01561; the decoupled form, Hilton et al. 2021,
arXiv:2110.00641.

Shapes: B sequences, T tokens.
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from offaxis.objectives.base import TokenBatch, missing

Importance = Literal["none", "token", "sequence"]


def corrected(
    batch: TokenBatch,
    logprobs_BT: Float[Tensor, "B T"],
    *,
    importance: Importance,
    cap: float,
) -> TokenBatch:
    """The batch with its importance weights, and with the student now as the proximal policy.

    Args:
        batch: Tokens with their recorded sampling log-probabilities.
        logprobs_BT: The student's own log-probabilities (nats) at the beginning of the step.
        importance: Which ratio weighs a token; "none" weighs nothing.
        cap: The largest weight.

    Raises:
        NumericsError: If the batch has no recorded log-probabilities.
    """
    now_BT = logprobs_BT.detach()
    weights_BT = None
    if importance != "none":
        weights_BT = importance_weights(batch, now_BT, per=importance, cap=cap)
    return replace(batch, proximal_logprobs_BT=now_BT, importance_BT=weights_BT)


def importance_weights(
    batch: TokenBatch,
    logprobs_BT: Float[Tensor, "B T"],
    *,
    per: Literal["token", "sequence"],
    cap: float,
) -> Float[Tensor, "B T"]:
    """min(student / sampler, cap): of each token, or of the sequence at each of its tokens.

    The weights are in [0, cap], one where both agree, and one off the mask.
    """
    log_ratio_BT = _log_ratio(batch, logprobs_BT.detach())
    if per == "sequence":
        log_ratio_BT = torch.where(batch.mask_BT, log_ratio_BT.sum(1, keepdim=True), 0.0)
    return log_ratio_BT.exp().clamp_max(cap)


def mismatch_sum_nats(batch: TokenBatch, logprobs_BT: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """The sum over the mask of an estimate of KL(sampler || student) from the sampler's tokens.

    The estimate is k3, r - 1 - log r with r = student / sampler: unbiased for samples at
    temperature 1, and never negative (Schulman 2020, "Approximating KL divergence"). It is only
    read, never differentiated.

    Raises:
        NumericsError: If the batch has no recorded log-probabilities.
    """
    log_ratio_BT = _log_ratio(batch, logprobs_BT.detach())
    return (log_ratio_BT.expm1() - log_ratio_BT).sum()


def _log_ratio(batch: TokenBatch, logprobs_BT: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The log of student / sampler, zero off the mask."""
    if batch.sampled_logprobs_BT is None:
        raise missing("sampled log-probabilities")
    return torch.where(batch.mask_BT, logprobs_BT - batch.sampled_logprobs_BT, 0.0)
