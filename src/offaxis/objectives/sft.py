"""Supervised fine-tuning: make the given tokens likelier."""

from offaxis.objectives.base import Streams, TokenBatch, objective


@objective(rollouts=False, source="maximum likelihood")
def sft(batch: TokenBatch) -> Streams:
    """Cross-entropy on every token of the mask, each with weight one."""
    return Streams(cross_entropy_BT=batch.mask_BT.float())
