"""Who samples: a model in this process, or the server that serves it.

Shapes: P prompts, G rollouts of each, B = P x G, S tokens of prompt and completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.errors import ServerError
from offaxis.objectives.base import TokenBatch
from offaxis.objectives.importance import mismatch_sum_nats
from offaxis.recipe import Recipe
from offaxis.training.bucketing import buckets, joined
from offaxis.training.engines.client import Server
from offaxis.training.engines.formats import Sample, Sampling
from offaxis.training.rollouts import Completions, complete, ends_of, until_end
from offaxis.training.rows import Rows, padding_of
from offaxis.training.sampling import key_of

# Reduced precision in a server costs thousandths; models that differ are further apart.
_OTHER_WEIGHTS_NATS = 0.1


Keys = Sequence[tuple[object, ...]]


@runtime_checkable
class Sampler(Protocol):
    """Completes prompts; the same model, prompt and key give the same completions."""

    def sample(self, model: PreTrainedModel, prompts: Sequence[str], keys: Keys) -> Completions:
        """Complete every prompt, each with its key, as often as the recipe asks."""
        ...


@dataclass(frozen=True)
class Generate:
    """Samples in this process, prompts of similar length together.

    What is drawn for a prompt depends on its key alone, not on the prompts beside it.
    """

    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    num_ids: int | None = None

    def sample(self, model: PreTrainedModel, prompts: Sequence[str], keys: Keys) -> Completions:
        """As `Sampler.sample`."""
        how = self.recipe.rollouts
        encoded = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        together = buckets(
            [len(ids) for ids in encoded],
            max_tokens=how.max_tokens,
            most=how.rows // how.per_prompt if how.rows else len(prompts),
        )
        parts = []
        for positions in together:
            completions = complete(
                model,
                self.tokenizer,
                [prompts[p] for p in positions],
                max_tokens=how.max_tokens,
                temperature=how.temperature,
                per_prompt=how.per_prompt,
                num_ids=self.num_ids,
                keys=[keys[p] for p in positions],
            )
            parts.append(completions)
        if len(parts) == 1:
            return parts[0]
        return joined(parts, together, how.per_prompt, padding_of(self.tokenizer))


class Served:
    """Samples through a server.

    The server has to hold the model that is asked for. With `weights` the model is written there
    and the server loads it, before every drawing; without, it serves a fixed one. What the first
    drawing says is compared with the model here, unless that is the student of a teacher.

    Args:
        server: Who samples.
        tokenizer: The student's.
        recipe: The run's.
    """

    def __init__(self, server: Server, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> None:
        self.server, self.tokenizer, self.recipe = server, tokenizer, recipe
        self._is_checked = recipe.rollouts.source == "teacher"

    def sample(self, model: PreTrainedModel, prompts: Sequence[str], keys: Keys) -> Completions:
        """As `Sampler.sample`, as far as the server repeats."""
        how = self.recipe.rollouts
        if how.weights is not None:
            folder = Path(how.weights).absolute()
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            self.server.load(str(folder))
        encoded = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        ends = ends_of(model, self.tokenizer)
        sampling = Sampling(how.per_prompt, how.max_tokens, ends, key_of(*keys[0]))
        samples = self.server.sample(encoded, sampling)
        self._check_ids(model, samples)
        asked = [ids for ids in encoded for _ in range(how.per_prompt)]
        completions = self._completions(asked, samples, ends)
        # Where nothing was sampled there is nothing to compare; that alone ends the run.
        if not self._is_checked and completions.rows.batch.mask_BT.any():
            self._check_weights(model, completions.rows)
            self._is_checked = True
        return completions

    def _check_ids(self, model: PreTrainedModel, samples: Sequence[Sample]) -> None:
        """Refuse tokens that the model does not have."""
        known = model.config.get_text_config().vocab_size
        foreign = [i for sample in samples for i in sample.ids if not 0 <= i < known]
        if foreign:
            raise ServerError(
                self.server.url,
                expected=f"tokens below {known}, as the student has them",
                found=f"token {foreign[0]}",
                do="serve a model with the student's vocabulary",
            )

    def _check_weights(self, model: PreTrainedModel, rows: Rows) -> None:
        """Refuse a server whose log-probabilities are not those of the model."""
        batch = rows.to(model.device).batch
        with torch.inference_mode():
            logits = model(rows.input_ids_BS[:, :-1].to(model.device), use_cache=False).logits
            log_p_BTV = logits.float().log_softmax(-1)
            log_p_BT = log_p_BTV.gather(-1, batch.tokens_BT.unsqueeze(-1)).squeeze(-1)
            mismatch = mismatch_sum_nats(batch, log_p_BT) / batch.mask_BT.sum()
        if not mismatch < _OTHER_WEIGHTS_NATS:
            raise ServerError(
                self.server.url,
                expected="the weights that rollouts are to come from",
                found=f"others: KL(server || weights here) is about {float(mismatch):.3g} nats",
                do="serve the run's start (checkpoint-0), or give the server rollouts.weights",
            )

    def _completions(
        self, asked: Sequence[list[int]], samples: Sequence[Sample], ends: Sequence[int]
    ) -> Completions:
        """What the server sampled, as rows; nothing after an end of text counts."""
        pairs = list(zip(asked, samples, strict=True))
        width = max(len(prompt) + len(sample.ids) for prompt, sample in pairs)
        ids_BS = torch.full((len(pairs), width), padding_of(self.tokenizer))
        logprobs_BS, mask_BS = torch.zeros(ids_BS.shape), torch.zeros(ids_BS.shape).bool()
        for b, (prompt, sample) in enumerate(pairs):
            begin, end = len(prompt), len(prompt) + len(sample.ids)
            ids_BS[b, :end] = torch.tensor([*prompt, *sample.ids])
            logprobs_BS[b, begin:end] = torch.tensor(sample.logprobs)
            mask_BS[b, begin:end] = until_end(ids_BS[b : b + 1, begin:end], ends)[0]
        batch = TokenBatch(ids_BS[:, 1:], mask_BS[:, 1:], None, logprobs_BS[:, 1:])
        positions_BS = torch.arange(width).expand_as(ids_BS)
        kept = [row[keep] for row, keep in zip(ids_BS, mask_BS, strict=True)]
        rows = Rows(ids_BS, positions_BS, None, batch)
        return Completions(self.tokenizer.batch_decode(kept), rows, mask_BS.sum(1))


def sampler_of(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, num_ids: int | None = None
) -> Sampler:
    """Who samples for a recipe.

    Raises:
        UsageError: If a server is to be asked and httpx is not installed.
    """
    how, teacher = recipe.rollouts, recipe.teacher
    if how.source == "teacher" and teacher is not None and teacher.url is not None:
        server = Server(teacher.url, teacher.engine, teacher.model, teacher.deadline_seconds)
        return Served(server, tokenizer, recipe)
    if how.url is not None:
        server = Server(how.url, how.engine, how.model, how.deadline_seconds)
        return Served(server, tokenizer, recipe)
    return Generate(tokenizer, recipe, num_ids)
