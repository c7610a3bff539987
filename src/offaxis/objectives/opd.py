"""On-policy distillation: move the student towards the teacher on the student's own rollouts."""

from offaxis.objectives.base import Streams, TokenBatch, objective
from offaxis.objectives.divergences import (
    Count,
    Divergence,
    Name,
    Positive,
    Share,
    Support,
    Tail,
)


@objective(rollouts=True, teacher=True, source="Agarwal et al. 2024, arXiv:2306.13649")
def opd(
    batch: TokenBatch,
    *,
    divergence: Name = "reverse_kl",
    beta: Share = 0.5,
    support: Support = "full",
    k: Count = 16,
    tail: Tail = "renormalised",
    temperature: Positive = 1.0,
) -> Streams:
    """Divergence to the teacher, summed exactly over the vocabulary, on every sampled token.

    As in the source, the gradient does not flow through the sampling: each position is distilled
    given the tokens before it. `beta` counts for `jsd` alone, `k` and `tail` for `student_top_k`
    alone.
    """
    chosen = Divergence(divergence, beta, support, k, tail, temperature)
    return Streams(divergence_BT=batch.mask_BT.float(), divergence=chosen)
