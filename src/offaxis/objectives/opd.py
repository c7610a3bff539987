"""On-policy distillation: move the student towards the teacher on the student's own rollouts."""

from typing import Literal

from offaxis.objectives.base import Streams, TokenBatch, objective


@objective(rollouts=True, teacher=True, source="Agarwal et al. 2024, arXiv:2306.13649")
def opd(
    batch: TokenBatch, *, divergence: Literal["reverse_kl", "forward_kl"] = "reverse_kl"
) -> Streams:
    """Divergence to the teacher, summed exactly over the vocabulary, on every sampled token.

    As in the source, the gradient does not flow through the sampling: each position is distilled
    given the tokens before it.
    """
    return Streams(divergence_BT=batch.mask_BT.float(), divergence=divergence)
