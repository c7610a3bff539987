"""Log-probabilities of sampled tokens, kept while `generate` samples them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor


class SampledLogprobs(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Keeps the log-probability of each sampled token under the unscaled logits.

    A step's logits are let go as soon as its token is known: those of whole completions would be a
    tensor of tokens times vocabulary.

    Args:
        num_ids: The first ids, the only ones that may be sampled; None for all.
    """

    def __init__(self, num_ids: int | None) -> None:
        self.num_ids = num_ids
        self._columns: list[Tensor] = []
        self._log_p_BV: Float[Tensor, "B V"] | None = None

    def __call__(
        self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        """Told the tokens so far and the logits of the next one, before any temperature."""
        if self.num_ids is not None:
            scores = scores.clone()
            scores[:, self.num_ids :] = -torch.inf
        self._settle(input_ids)
        self._log_p_BV = scores.log_softmax(-1)
        return scores

    def logprobs(self, ids_BS: Int[Tensor, "B S"], width: int) -> Float[Tensor, "B N"]:
        """Those of the tokens behind the first `width`."""
        self._settle(ids_BS)
        return torch.stack(self._columns, 1)[:, : ids_BS.shape[1] - width]

    def _settle(self, ids_BS: Int[Tensor, "B S"]) -> None:
        if self._log_p_BV is not None:
            self._columns.append(self._log_p_BV.gather(-1, ids_BS[:, -1:])[:, 0])
