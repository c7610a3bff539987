"""Rollouts: completions sampled from the student, keyed by seed and step.

Shapes: P prompts, G rollouts of each, B = P x G, S tokens of prompt and completion, T = S - 1.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from offaxis.objectives.base import TokenBatch
from offaxis.training.logprobs import SampledLogprobs
from offaxis.training.rows import Rows, padding_of
from offaxis.training.sampling import KeyedSampling


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


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float,
    per_prompt: int = 1,
    num_ids: int | None = None,
    keys: Sequence[tuple[object, ...]] = (),
) -> Completions:
    """Complete every prompt `per_prompt` times, prompt by prompt; temperature 0 is greedy.

    It ends as soon as every completion has. Each prompt is read once and its keys and values are
    shared by its completions. Prompts shorter than the longest are padded on the left while they
    are completed; the rows come back padded on the right, as all rows are.

    Args:
        model: Who completes.
        tokenizer: Whose tokens, and whose end of text beside the model's own.
        prompts: The texts to complete.
        max_tokens: Tokens of a completion at most.
        temperature: Divides the logits before sampling; what is recorded is not divided.
        per_prompt: Completions of each prompt.
        num_ids: Only the first ids are ever sampled, and probabilities are those given these ids.
        keys: With a key for each prompt, its completions do not depend on what is completed beside
            them; without, torch's own generator draws.
    """
    prompt_PS, mask_PS = _prompts(tokenizer, prompts, model.device)
    width = prompt_PS.shape[1]
    ends = ends_of(model, tokenizer)
    recorder = SampledLogprobs(num_ids)
    processors: list[Any] = [recorder] if temperature > 0 or num_ids is not None else []
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature and keys:
        processors.append(KeyedSampling(keys, per_prompt, temperature, model.device))
    elif temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    was_training = model.training
    model.eval()
    # Not inference mode: what `fully_shard` gathers in it could not be trained on afterwards.
    with torch.no_grad(), _plain_generation(model, ends, padding_of(tokenizer)):
        cache = _read(model, prompt_PS, mask_PS)
        cache.batch_repeat_interleave(per_prompt)
        ids = model.generate(
            prompt_PS.repeat_interleave(per_prompt, 0),
            attention_mask=mask_PS.repeat_interleave(per_prompt, 0),
            past_key_values=cache,
            max_new_tokens=max_tokens,
            logits_processor=LogitsProcessorList(processors),
            **sampling,
        )
        sampled = recorder.logprobs(ids, width) if temperature else None
    model.train(was_training)
    # Copies: no backward pass may keep what was made in inference mode.
    ids = ids.clone()
    logprobs = None
    if sampled is not None:
        nothing = torch.zeros(len(ids), width - 1, device=ids.device)
        logprobs = torch.cat([nothing, sampled], 1).clone()
    mask = until_end(ids[:, width:], ends)
    kept = [row[keep] for row, keep in zip(ids[:, width:], mask, strict=True)]
    rows = _rows(ids, width, mask, logprobs)
    if not mask_PS.all():
        rows = _padded_right(rows, (mask_PS == 0).sum(1).repeat_interleave(per_prompt))
    return Completions(tokenizer.batch_decode(kept), rows, mask.sum(1))


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text: the tokenizer's, and those the model itself is said to end by."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    owns = own if isinstance(own, list) else [own]
    return sorted({end for end in (tokenizer.eos_token_id, *owns) if end is not None})


@contextmanager
def _plain_generation(model: PreTrainedModel, ends: list[int], padding: int) -> Iterator[None]:
    """No settings of sampling but ours.

    A foreign model brings its own, such as a repetition penalty: its samples would come from other
    probabilities than those that are recorded.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=padding)
    try:
        yield
    finally:
        model.generation_config = own


def _prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], device: torch.device
) -> tuple[Int[Tensor, "P S"], Int[Tensor, "P S"]]:
    """Prompts as tokens, padded on the left, and where the tokens are."""
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    width, padding = max(map(len, encoded)), padding_of(tokenizer)
    ids = [[padding] * (width - len(row)) + row for row in encoded]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in encoded]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _read(
    model: PreTrainedModel, ids_PS: Int[Tensor, "P S"], mask_PS: Int[Tensor, "P S"]
) -> DynamicCache:
    """The keys and values of all but the last token of each prompt."""
    cache = DynamicCache(config=model.config)
    before = {"input_ids": ids_PS[:, :-1], "past_key_values": cache, "logits_to_keep": 1}
    if not mask_PS.all():  # without padding the plain path: a mask may cost and change rounding
        before["attention_mask"] = mask_PS[:, :-1]
        before["position_ids"] = (mask_PS.cumsum(1) - 1).clamp_min(0)[:, :-1]
    model(**before)
    return cache


def _padded_right(rows: Rows, padding_B: Int[Tensor, "B"]) -> Rows:
    """Rows with their padding moved from the left to the right, behind every token that matters."""

    def turned(tensor: Tensor) -> Tensor:
        columns = torch.arange(tensor.shape[1], device=tensor.device)
        return tensor.gather(1, (columns + padding_B[:, None]) % tensor.shape[1])

    ids, batch = turned(rows.input_ids_BS), rows.batch
    sampled = batch.sampled_logprobs_BT
    logprobs = None if sampled is None else turned(sampled)
    moved = TokenBatch(ids[:, 1:], turned(batch.mask_BT), batch.rewards_PG, logprobs)
    return Rows(ids, rows.position_ids_BS, None, moved)


def until_end(completion_BT: Int[Tensor, "B T"], ends: Sequence[int]) -> Bool[Tensor, "B T"]:
    """True up to and with the first end-of-text; everywhere in a row without one."""
    is_end = torch.isin(completion_BT, torch.tensor(ends, device=completion_BT.device))
    return (is_end.cumsum(1) - is_end.long()) == 0


def _rows(
    ids_BS: Int[Tensor, "B S"],
    width: int,
    mask: Bool[Tensor, "B N"],
    logprobs_BT: Float[Tensor, "B T"] | None,
) -> Rows:
    """Rows whose mask covers the completions."""
    positions = torch.arange(ids_BS.shape[1], device=ids_BS.device).expand_as(ids_BS)
    nothing = torch.zeros(len(ids_BS), width - 1, dtype=torch.bool, device=ids_BS.device)
    mask_BT = torch.cat([nothing, mask], 1)
    return Rows(ids_BS, positions, None, TokenBatch(ids_BS[:, 1:], mask_BT, None, logprobs_BT))
