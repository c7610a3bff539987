"""Rollouts: completions sampled from the student, keyed by seed and step.

Shapes: P prompts, G rollouts of each, B = P x G, S tokens of prompt and completion, T = S - 1.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from offaxis.objectives.base import TokenBatch
from offaxis.training.rows import Rows


class Completions(NamedTuple):
    """Sampled or greedy completions of one batch of prompts.

    Attributes:
        texts: The completions, up to and with end-of-text where it was reached.
        rows: Prompt and completion as rows; the mask covers the completion with its end-of-text.
        lengths_B: Tokens of each completion.
    """

    texts: list[str]
    rows: Rows
    lengths_B: Int[Tensor, "B"]


@contextmanager
def keyed_randomness(*key: object) -> Iterator[None]:
    """The generator of torch at a state that depends on the key alone, restored afterwards.

    `generate` takes no generator of its own; this makes what it draws independent of what was drawn
    before, so that a run repeats from any step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32("/".join(map(str, key)).encode()))
        yield


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float,
    per_prompt: int = 1,
) -> Completions:
    """Complete every prompt `per_prompt` times, prompt by prompt; temperature 0 is greedy.

    The prompts of a batch have one length in tokens, so that nothing is padded on the left. Each is
    read once and its keys and values are shared by its completions.
    """
    prompt_ids = torch.tensor(tokenizer(list(prompts), add_special_tokens=False)["input_ids"])
    width = prompt_ids.shape[1]
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        model(input_ids=prompt_ids[:, :-1], past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(per_prompt)
        ids = prompt_ids.repeat_interleave(per_prompt, 0)
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=max_tokens,
            return_dict_in_generate=True,
            output_logits=temperature > 0,
            **(sampling if temperature else {"do_sample": False}),
        )
    model.train(was_training)
    ids = output.sequences.clone()
    mask = until_end(ids[:, width:], tokenizer.eos_token_id)
    kept = [row[keep] for row, keep in zip(ids[:, width:], mask, strict=True)]
    logprobs = _placed_logprobs(output.logits, ids, width) if temperature else None
    rows = _rows(ids, width, mask, logprobs)
    return Completions(tokenizer.batch_decode(kept), rows, mask.sum(1))


def until_end(completion_BT: Int[Tensor, "B T"], end: int) -> Bool[Tensor, "B T"]:
    """True up to and with the first end-of-text; everywhere in a row without one."""
    is_end = completion_BT == end
    return (is_end.cumsum(1) - is_end.long()) == 0


def _rows(
    ids_BS: Int[Tensor, "B S"],
    width: int,
    mask: Bool[Tensor, "B N"],
    logprobs_BT: Float[Tensor, "B T"] | None,
) -> Rows:
    """Rows whose mask covers the completions."""
    positions = torch.arange(ids_BS.shape[1]).expand_as(ids_BS)
    nothing = torch.zeros(len(ids_BS), width - 1, dtype=torch.bool)
    mask_BT = torch.cat([nothing, mask], 1)
    return Rows(ids_BS, positions, None, TokenBatch(ids_BS[:, 1:], mask_BT, None, logprobs_BT))


def _placed_logprobs(
    logits: Sequence[Float[Tensor, "B V"]], ids_BS: Int[Tensor, "B S"], width: int
) -> Float[Tensor, "B T"]:
    """Log-probabilities of the sampled tokens under the unscaled logits, at their positions."""
    log_p = torch.stack(list(logits), 1).float().log_softmax(-1)
    sampled = log_p.gather(-1, ids_BS[:, width:, None]).squeeze(-1)
    return torch.cat([torch.zeros(len(ids_BS), width - 1), sampled], 1).clone()
