"""Attention in plain products, without a copy of keys and values for every head that shares them.

Queries of a group are rows of one product with their keys. What transformers calls `eager` repeats
keys and values first: at every token that a small model samples that takes as long as the products.

Shapes: B rows, H query heads in G groups of R, T queries, S keys, D entries of a head.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

_NAME = "offaxis_grouped"
_PLAIN = frozenset({"qwen3", "qwen3_moe"})
"""Architectures known to ask no more of their eager attention than is done here."""


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Let a model that would attend eagerly attend by groups: the same to the rounding of sums."""
    is_eager = model.config._attn_implementation == "eager"
    if is_eager and model.config.model_type in _PLAIN:
        model.set_attn_implementation(_NAME)


def grouped_attention(  # noqa: PLR0917 - as transformers calls it
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    attention_mask: Float[Tensor, "B 1 T S"] | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Float[Tensor, "B T H D"], Float[Tensor, "B H T S"]]:
    """Return what heads attend to, and how much; weights are taken in float32."""
    B, H, T, D = query.shape
    G, S = key.shape[1:3]
    scores = torch.matmul(query.reshape(B, G, -1, D), key.transpose(2, 3)) * scaling
    scores = scores.view(B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    found = torch.matmul(weights.view(B, G, -1, S), value)
    return found.view(B, H, T, D).transpose(1, 2).contiguous(), weights


AttentionInterface.register(_NAME, grouped_attention)
AttentionMaskInterface.register(_NAME, eager_mask)
