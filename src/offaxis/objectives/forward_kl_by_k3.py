"""Distillation by the k3 of the sampled token, under the name of what it does."""

from offaxis.objectives.base import Streams, TokenBatch, objective


@objective(
    rollouts=True,
    teacher=True,
    facts=("teacher_logprobs",),
    source="the k3 of Schulman 2020, 'Approximating KL divergence', differentiated",
)
def forward_kl_by_k3(batch: TokenBatch) -> Streams:
    """k3 of the sampled token as a loss; the expected gradient is that of KL(teacher || student).

    k3 is an unbiased estimate of the reverse KL, and often used as a loss under that name. On the
    student's samples its gradient is (1 - q/p) grad log p, whose mean is the forward KL's.
    """
    return Streams(estimate_BT=batch.mask_BT.float(), estimate="k3")
