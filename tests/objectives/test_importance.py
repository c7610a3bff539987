"""Weights of samples from elsewhere, against exact expectations over a vocabulary of five."""

from dataclasses import replace

import pytest
import torch

from offaxis.errors import NumericsError
from offaxis.objectives.base import Head, Streams, TokenBatch
from offaxis.objectives.importance import corrected, importance_weights, mismatch_sum_nats
from offaxis.objectives.loss import token_loss

B, T, V = 2, 3, 5
MASK = torch.tensor([[1, 1, 1], [0, 1, 1]], dtype=torch.bool)


def drawn(seed=0):
    """The sampler's and the student's log-probabilities at every position, and tokens."""
    generator = torch.Generator().manual_seed(seed)
    sampler, student = torch.randn(2, B, T, V, generator=generator).log_softmax(-1)
    tokens = torch.randint(V, (B, T), generator=generator)
    return sampler, student, tokens


def of(log_p, tokens):
    return log_p.gather(-1, tokens[..., None])[..., 0]


def head(logits):
    """A head whose logits are its hidden states."""
    return Head(logits, torch.eye(V))


def batch_of(sampler, tokens):
    return TokenBatch(tokens, MASK, torch.tensor([[1.0, 0.0]]), of(sampler, tokens))


def test_token_weights_are_the_ratio_of_each_token_truncated_from_above():
    sampler, student, tokens = drawn()
    batch, now = batch_of(sampler, tokens), of(student, tokens)
    ratio = (now - of(sampler, tokens)).exp()
    weights = importance_weights(batch, now, per="token", cap=1.5)
    assert (ratio[MASK] > 1.5).any()
    assert (ratio[MASK] < 1).any()
    torch.testing.assert_close(weights[MASK], ratio[MASK].clamp_max(1.5))
    assert (weights[~MASK] == 1).all()


def test_sequence_weights_are_the_product_over_the_mask():
    sampler, student, tokens = drawn()
    now = of(student, tokens)
    weights = importance_weights(batch_of(sampler, tokens), now, per="sequence", cap=1e9)
    ratio = torch.where(MASK, (now - of(sampler, tokens)).exp(), 1.0).prod(1, keepdim=True)
    torch.testing.assert_close(weights, torch.where(MASK, ratio.expand(B, T), 1.0))


def test_weighted_samples_of_the_sampler_have_the_students_expectation():
    """Summed exactly over the sampler's tokens, weights turn its mean into the student's."""
    sampler, student, _ = drawn()
    value = torch.arange(float(V))
    weighted = torch.zeros(B, T)
    for token in range(V):
        tokens = torch.full((B, T), token)
        batch = replace(batch_of(sampler, tokens), mask_BT=torch.ones(B, T, dtype=torch.bool))
        weights = importance_weights(batch, of(student, tokens), per="token", cap=1e9)
        weighted += of(sampler, tokens).exp() * weights * value[token]
    torch.testing.assert_close(weighted, (student.exp() * value).sum(-1))


def test_the_mismatch_has_the_exact_kl_as_its_mean_and_is_never_negative():
    sampler, student, _ = drawn()
    total = torch.zeros(())
    for token in range(V):
        tokens = torch.full((1, 1), token)
        batch = TokenBatch(tokens, MASK[:1, :1], None, of(sampler[:1, :1], tokens))
        estimate = mismatch_sum_nats(batch, of(student[:1, :1], tokens))
        assert estimate >= 0
        total += of(sampler[:1, :1], tokens).exp()[0, 0] * estimate
    exact = (sampler[0, 0].exp() * (sampler[0, 0] - student[0, 0])).sum()
    torch.testing.assert_close(total, exact)
    assert mismatch_sum_nats(batch, batch.sampled_logprobs_BT) == 0


@pytest.mark.parametrize("importance", ["none", "token", "sequence"])
def test_with_a_correction_the_policy_ratio_begins_at_the_student(importance):
    """PPO's own ratio and importance weights would count the same mismatch twice."""
    sampler, student, tokens = drawn()
    batch = corrected(
        batch_of(sampler, tokens), of(student, tokens), importance=importance, cap=9.0
    )
    logits = student.clone().requires_grad_()
    streams = Streams(advantages_BT=torch.ones(B, T))
    token_loss(head(logits), batch, streams, num_tokens=1).value.backward()
    weights = torch.ones(B, T) if importance == "none" else batch.importance_BT
    one_hot = torch.nn.functional.one_hot(tokens, V)
    expected = -(weights * MASK)[..., None] * (one_hot - student.exp())
    torch.testing.assert_close(logits.grad, expected)


def test_the_loss_multiplies_every_stream_by_the_weights():
    sampler, student, tokens = drawn()
    weights = torch.tensor([[0.5, 2.0, 1.0], [3.0, 0.0, 1.5]])
    batch = batch_of(sampler, tokens)
    for name in ("cross_entropy_BT", "divergence_BT", "advantages_BT"):
        streams = Streams(**{name: torch.ones(B, T)})
        scaled = Streams(**{name: weights})
        one, other = (
            token_loss(head(student), b, s, num_tokens=3, teacher=head(sampler)).value
            for b, s in ((replace(batch, importance_BT=weights), streams), (batch, scaled))
        )
        torch.testing.assert_close(one, other)


def test_without_recorded_log_probabilities_nothing_is_guessed():
    _, student, tokens = drawn()
    batch = TokenBatch(tokens, MASK)
    with pytest.raises(NumericsError, match="sampled log-probabilities"):
        corrected(batch, of(student, tokens), importance="token", cap=2.0)
