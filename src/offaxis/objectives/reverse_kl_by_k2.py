"""On-policy distillation by the sampled token: half its squared log-ratio as the loss."""

from offaxis.objectives.base import Streams, TokenBatch, objective


@objective(
    rollouts=True,
    teacher=True,
    facts=("teacher_logprobs",),
    source="the k2 of Schulman 2020, 'Approximating KL divergence', differentiated",
)
def reverse_kl_by_k2(batch: TokenBatch) -> Streams:
    """Half the squared log-ratio of the sampled token; the expected gradient is the reverse KL's.

    Unlike the advantage of k1 it is not clipped.
    """
    return Streams(estimate_BT=batch.mask_BT.float(), estimate="k2")
