"""Token sparsification: a loss on a fraction of each rollout's tokens, and which ones.

Source: On the Geometry of On-Policy Distillation, arXiv:2606.07082, appendix G.2.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def kept(
    scores_BT: Float[Tensor, "B T"], mask_BT: Bool[Tensor, "B T"], fraction: float
) -> Bool[Tensor, "B T"]:
    """The tokens with the highest scores of every sample, a fraction of its masked tokens.

    Args:
        scores_BT: The higher, the sooner kept; off the mask without influence.
        mask_BT: The tokens to choose from.
        fraction: In (0, 1]; the number kept is rounded up, so a sample with tokens keeps one.

    Returns:
        True where a token is kept. Of equal scores the earlier token is kept; NaN counts as lowest.
    """
    lowest = torch.where(mask_BT, scores_BT.nan_to_num(nan=-torch.inf), -torch.inf)
    # Masked-out tokens come last even among infinities: two stable sorts, the mask's the last.
    by_score_BT = lowest.argsort(dim=1, descending=True, stable=True)
    is_masked_BT = mask_BT.gather(1, by_score_BT).long()
    order_BT = by_score_BT.gather(1, is_masked_BT.argsort(dim=1, descending=True, stable=True))
    # A whole number of tokens times a fraction may lie a rounding above it.
    num_B1 = (mask_BT.sum(1, keepdim=True).double() * fraction - 1e-6).ceil()
    ranks_1T = torch.arange(mask_BT.shape[1], device=mask_BT.device)[None]
    return torch.zeros_like(mask_BT).scatter(1, order_BT, ranks_1T < num_B1)


def selection_weights(
    kept_BT: Bool[Tensor, "B T"], mask_BT: Bool[Tensor, "B T"], *, compensate: bool
) -> Float[Tensor, "B T"]:
    """The weights of the tokens of every sample once some are left out.

    Args:
        kept_BT: The kept tokens, within the mask.
        mask_BT: All tokens of the samples.
        compensate: Whether the kept ones are scaled by (tokens / kept tokens) of their sample, so
            that the sample weighs as much as before. Adam takes most of such a factor out again.

    Returns:
        Zero off the kept tokens; one, or the factor of the sample, on them.
    """
    weights_BT = kept_BT.float()
    if not compensate:
        return weights_BT
    return weights_BT * mask_BT.sum(1, keepdim=True) / kept_BT.sum(1, keepdim=True).clamp_min(1)
