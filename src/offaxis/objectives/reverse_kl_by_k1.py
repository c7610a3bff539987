"""On-policy distillation by the sampled token: its log-ratio as the advantage."""

from offaxis.objectives.base import Streams, TokenBatch, needed, objective
from offaxis.objectives.grpo import Above, Below


@objective(
    rollouts=True,
    teacher=True,
    facts=("logprobs", "teacher_logprobs"),
    source="Gu et al. 2024, arXiv:2306.08543, one token at a time",
)
def reverse_kl_by_k1(
    batch: TokenBatch, *, clip_low: Below = 0.2, clip_high: Above = 0.28
) -> Streams:
    """Clipped policy gradient on log q - log p of the sampled token, teacher q and student p.

    The expected gradient is that of KL(student || teacher) where the policy ratio is one. The
    log-ratio itself, differentiated, would be zero on average: it is a weight here, not a loss.
    """
    teacher_BT = needed(batch.teacher_logprobs_BT, "teacher log-probabilities")
    student_BT = needed(batch.logprobs_BT, "student log-probabilities")
    # `where`, not a product: off the mask nothing is known, and an infinity would become NaN.
    advantages_BT = (teacher_BT - student_BT).where(batch.mask_BT, 0.0)
    return Streams(advantages_BT=advantages_BT, clip_low=clip_low, clip_high=clip_high)
