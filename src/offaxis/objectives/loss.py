"""The one loss: per-token streams and one normaliser.

    loss = 1/N sum_t i_t [ w_ce CE_t + w_kl D_t(student, teacher) - min(r_t A_t, clip(r_t) A_t)
                           + w_est E_t(student, teacher) + w_ref KL_t(student, reference) ]

Every objective is a choice of the weights. N belongs to the whole batch of one optimizer step, so
that splitting the batch changes nothing; i_t is one for tokens of the student's own.

Only positions of the mask are looked at, and only some at a time: see `objectives.chunks`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from offaxis.objectives.base import Head, Streams, TokenBatch, missing, needed
from offaxis.objectives.chunks import fixed, logits_at, spans, summed, tokens_of_chunk
from offaxis.objectives.divergences import REVERSE_KL, Divergence, reverse_kl
from offaxis.objectives.estimates import ESTIMATES
from offaxis.objectives.importance import mismatch_sum_nats


class Loss(NamedTuple):
    """The value to differentiate, and what the same pass knows of the student, detached.

    Attributes:
        value: The loss.
        entropy_sum_nats: The sum of the student's entropies on the mask.
        mismatch_sum_nats: The sum on the mask of the estimate of KL(sampler || student)
            (`objectives.importance`); zero where nothing says how the tokens were sampled.
    """

    value: Float[Tensor, ""]
    entropy_sum_nats: Float[Tensor, ""]
    mismatch_sum_nats: Float[Tensor, ""]


def token_loss(
    student: Head,
    batch: TokenBatch,
    streams: Streams,
    *,
    num_tokens: int | float,
    teacher: Head | None = None,
    reference: Head | None = None,
    chunk_tokens: int | None = None,
) -> Loss:
    """Weigh and add the streams.

    Args:
        student: What the student's logits are made of, each position predicting the token of the
            batch there. Its gradients are ready when the loss is: one backward pass may follow.
        batch: The tokens and their mask; positions off the mask have no influence.
        streams: The weights, from an objective.
        num_tokens: The normaliser N of the whole step, more than 0: `streams.normaliser`, or the
            number of tokens that carry a loss.
        teacher: The same of the teacher, where a divergence is weighed.
        reference: The same of the frozen reference, where its KL is weighed.
        chunk_tokens: How many tokens' logits to hold at a time; by default by the vocabulary.

    Returns:
        The loss in float32; zero where no token carries one.

    Raises:
        NumericsError: If a stream needs what the batch does not have.
    """
    _check(streams, student, teacher=teacher, reference=reference)
    kept, weights = batch.kept(), streams.map(lambda stream: stream[batch.mask_BT][None])
    others = [
        _fixed(head, batch)
        for head, stream in ((teacher, streams.divergence_BT), (reference, streams.reference_BT))
        if head is not None and stream is not None
    ]

    def of_piece(logits: Sequence[Tensor], columns: slice) -> tuple[Tensor, Tensor]:
        log_p_BTV, *others_BTV = [each.float().log_softmax(-1) for each in logits]
        part = weights.map(lambda stream: stream[:, columns])
        piece = kept.columns(columns)
        terms_BT = _terms(log_p_BTV, piece, part, iter(others_BTV))
        return terms_BT.sum() / num_tokens, _beside(log_p_BTV.detach(), piece)

    at_once = chunk_tokens or tokens_of_chunk(len(student.weight_VD))
    value, beside = summed(_at_mask(student, batch), others, of_piece, at_once)
    return Loss(value, *beside.unbind())


@torch.no_grad()
def token_facts(
    student: Head,
    batch: TokenBatch,
    *,
    teacher: Head | None = None,
    divergence: Divergence = REVERSE_KL,
    chunk_tokens: int | None = None,
) -> TokenBatch:
    """The batch with its facts: what student and teacher make of the tokens, without a gradient.

    Args:
        student: What the student's logits are made of.
        batch: The tokens and their mask; facts are zero off the mask.
        teacher: The same of the teacher; without one, what is known of it stays as it is.
        divergence: Which divergence between both.
        chunk_tokens: How many tokens' logits to hold at a time; by default by the vocabulary.
    """
    _check(Streams(), student, teacher=teacher)
    heads = [_fixed(head, batch) for head in (student, teacher) if head is not None]
    kept = batch.kept()
    at_once = chunk_tokens or tokens_of_chunk(len(student.weight_VD))
    found: list[list[Tensor]] = []
    for columns in list(spans(0, kept.tokens_BT.shape[1], at_once)) or [slice(0)]:
        log_ps = [logits_at(head, columns).float().log_softmax(-1) for head in heads]
        part = kept.columns(columns)
        row = [_entropy(log_ps[0]), *(_of_token(log_p, part) for log_p in log_ps)]
        found.append([*row, divergence(*log_ps)] if teacher else row)

    def placed(rows: tuple[Tensor, ...]) -> Tensor:
        whole = torch.zeros(batch.mask_BT.shape, device=batch.mask_BT.device)
        whole[batch.mask_BT] = torch.cat(rows, 1)[0]
        return whole

    names = ("entropy_BT", "logprobs_BT", "teacher_logprobs_BT", "divergence_BT")
    facts: dict[str, Any] = dict(zip(names, map(placed, zip(*found, strict=True)), strict=False))
    return replace(batch, **facts)


def _terms(
    log_p_BTV: Float[Tensor, "B T V"],
    batch: TokenBatch,
    streams: Streams,
    others_BTV: Iterator[Float[Tensor, "B T V"]],
) -> Float[Tensor, "B T"]:
    """What each token adds to the sum; of the others that are weighed the teacher comes first."""
    log_p_BT = _of_token(log_p_BTV, batch)
    terms_BT = torch.zeros_like(log_p_BT)
    if streams.cross_entropy_BT is not None:
        terms_BT = terms_BT - streams.cross_entropy_BT * log_p_BT
    if streams.divergence_BT is not None:
        terms_BT = terms_BT + streams.divergence_BT * streams.divergence(
            log_p_BTV, next(others_BTV)
        )
    if streams.advantages_BT is not None:
        terms_BT = terms_BT - _clipped_gain(log_p_BT, batch, streams)
    if streams.estimate_BT is not None:
        log_q_BT = needed(batch.teacher_logprobs_BT, "teacher log-probabilities")
        terms_BT = terms_BT + streams.estimate_BT * ESTIMATES[streams.estimate](log_p_BT, log_q_BT)
    if streams.reference_BT is not None:
        terms_BT = terms_BT + streams.reference_BT * reverse_kl(log_p_BTV, next(others_BTV))
    return terms_BT if batch.importance_BT is None else terms_BT * batch.importance_BT


def _clipped_gain(
    log_p_BT: Float[Tensor, "B T"], batch: TokenBatch, streams: Streams
) -> Float[Tensor, "B T"]:
    """PPO's pessimistic gain: min(r A, clip(r) A), r the ratio to the proximal policy."""
    assert streams.advantages_BT is not None
    before_BT = batch.proximal_logprobs_BT
    if before_BT is None:
        before_BT = needed(batch.sampled_logprobs_BT, "sampled log-probabilities")
    ratio_BT = (log_p_BT - before_BT).exp()
    clipped_BT = ratio_BT.clamp(1 - streams.clip_low, 1 + streams.clip_high)
    return torch.minimum(ratio_BT * streams.advantages_BT, clipped_BT * streams.advantages_BT)


def _of_token(log_p_BTV: Float[Tensor, "B T V"], batch: TokenBatch) -> Float[Tensor, "B T"]:
    """The log-probability of the token that stands at each position."""
    return log_p_BTV.gather(-1, batch.tokens_BT.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def _entropy(log_p_BTV: Float[Tensor, "B T V"]) -> Float[Tensor, "B T"]:
    """Entropy in nats at each position."""
    return -(log_p_BTV.exp() * log_p_BTV).sum(-1)


def _beside(log_p_BTV: Float[Tensor, "B T V"], batch: TokenBatch) -> Float[Tensor, "2"]:
    """The sums of entropy and of the mismatch to the sampler."""
    mismatch = log_p_BTV.new_zeros(())
    if batch.sampled_logprobs_BT is not None:
        mismatch = mismatch_sum_nats(batch, _of_token(log_p_BTV, batch))
    return torch.stack([_entropy(log_p_BTV).sum(), mismatch])


def _at_mask(head: Head, batch: TokenBatch) -> Head:
    """The head at the positions of the mask, as one row."""
    return head._replace(hidden_BTD=head.hidden_BTD[batch.mask_BT][None])


def _fixed(head: Head, batch: TokenBatch) -> Head:
    """The same of a model that gets no gradient."""
    return fixed(_at_mask(head, batch))


def _check(
    streams: Streams, student: Head, *, teacher: Head | None, reference: Head | None = None
) -> None:
    """Refuse a model that is missing, or one of another vocabulary.

    Raises:
        NumericsError: If there is one.
    """
    if streams.divergence_BT is not None and teacher is None:
        raise missing("teacher logits")
    if streams.reference_BT is not None and reference is None:
        raise missing("reference logits")
    for head in (teacher, reference):
        if head is not None and len(head.weight_VD) != len(student.weight_VD):
            raise missing(
                f"{len(student.weight_VD)} entries in every vocabulary, not {len(head.weight_VD)}"
            )
