"""Prompts of similar length are completed together, so that little of what is read is padding.

Shapes: B rows, S tokens of a row, T = S - 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from offaxis.objectives.base import TokenBatch
from offaxis.training.rollouts import Completions
from offaxis.training.rows import Rows

# A bucket costs all the steps of its longest completion, and padding the positions of the shortest
# prompt: a new one is worth while where padding would be more than this share of a row.
_PADDING = 0.5


def buckets(lengths: Sequence[int], *, max_tokens: int, most: int) -> list[list[int]]:
    """Positions of the prompts that are completed together, the shortest first.

    Args:
        lengths: Tokens of each prompt.
        max_tokens: Tokens that may follow each.
        most: Prompts in a bucket at most, at least one.
    """
    found: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda p: lengths[p]):
        room = _PADDING * (lengths[position] + max_tokens)
        last = found[-1] if found else []
        if not last or len(last) >= most or lengths[position] - lengths[last[0]] > room:
            found.append([])
        found[-1].append(position)
    return [sorted(bucket) for bucket in found]


def joined(
    parts: Sequence[Completions], together: Sequence[Sequence[int]], per_prompt: int, padding: int
) -> Completions:
    """The completions of all buckets, in the order of the prompts."""
    positions = [p for bucket in together for p in bucket]
    order = torch.tensor(positions).argsort()
    place_B = (order[:, None] * per_prompt + torch.arange(per_prompt)).flatten()

    def ordered(tensors: Sequence[Tensor], fill: int) -> Tensor:
        width = max(tensor.shape[1] for tensor in tensors)
        wide = [F.pad(tensor, (0, width - tensor.shape[1]), value=fill) for tensor in tensors]
        return torch.cat(wide)[place_B.to(wide[0].device)]

    ids_BS = ordered([part.rows.input_ids_BS for part in parts], padding)
    batches = [part.rows.batch for part in parts]
    sampled = [b.sampled_logprobs_BT for b in batches if b.sampled_logprobs_BT is not None]
    batch = TokenBatch(
        ids_BS[:, 1:],
        ordered([b.mask_BT for b in batches], fill=False),
        sampled_logprobs_BT=ordered(sampled, 0) if sampled else None,
    )
    positions_BS = torch.arange(ids_BS.shape[1], device=ids_BS.device).expand_as(ids_BS)
    texts = [text for part in parts for text in part.texts]
    lengths_B = torch.cat([part.lengths_B for part in parts])
    return Completions(
        [texts[b] for b in place_B.tolist()],
        Rows(ids_BS, positions_BS, None, batch),
        lengths_B[place_B.to(lengths_B.device)],
    )
