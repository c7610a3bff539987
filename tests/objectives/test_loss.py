"""The one loss against gradients written by hand, on a vocabulary small enough to see through."""

import pytest
import torch

from offaxis.errors import NumericsError
from offaxis.objectives.base import Head, Streams, TokenBatch
from offaxis.objectives.divergences import forward_kl, reverse_kl
from offaxis.objectives.grpo import grpo
from offaxis.objectives.loss import token_loss
from offaxis.objectives.opd import opd
from offaxis.objectives.sft import sft

B, T, V = 4, 3, 5


def drawn(seed=0):
    """Student and teacher logits in float64, sampled tokens, and a mask with both values."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(B, T, V, generator=generator)
    teacher = torch.randn(B, T, V, generator=generator)
    tokens = torch.randint(V, (B, T), generator=generator)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    sampled = student.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return student, teacher, TokenBatch(tokens, mask, rewards, sampled)


def head(logits):
    """A head that makes these very logits."""
    return Head(logits, torch.eye(V))


def gradient(objective, student, teacher, batch, **settings):
    logits = student.clone().requires_grad_()
    num = int(batch.mask_BT.sum())
    streams = objective(batch, **settings)
    loss = token_loss(head(logits), batch, streams, num_tokens=num, teacher=head(teacher))
    loss.value.backward()
    return loss, logits.grad


def one_hot(batch):
    return torch.nn.functional.one_hot(batch.tokens_BT, V).float()


def masked_mean(values_BTV, batch):
    return values_BTV * batch.mask_BT[..., None] / batch.mask_BT.sum()


def test_sft_has_the_gradient_of_the_cross_entropy():
    student, teacher, batch = drawn()
    _, grad = gradient(sft, student, teacher, batch)
    expected = masked_mean(student.softmax(-1) - one_hot(batch), batch)
    torch.testing.assert_close(grad, expected)


def test_opd_has_the_gradient_of_the_full_reverse_kl():
    student, teacher, batch = drawn()
    loss, grad = gradient(opd, student, teacher, batch)
    p, log_p, log_q = student.softmax(-1), student.log_softmax(-1), teacher.log_softmax(-1)
    kl = (p * (log_p - log_q)).sum(-1, keepdim=True)
    torch.testing.assert_close(grad, masked_mean(p * (log_p - log_q - kl), batch))
    torch.testing.assert_close(loss.value, masked_mean(kl, batch).sum())


def test_opd_by_setting_has_the_gradient_of_the_forward_kl():
    student, teacher, batch = drawn()
    _, grad = gradient(opd, student, teacher, batch, divergence="forward_kl")
    expected = masked_mean(student.softmax(-1) - teacher.softmax(-1), batch)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.8])
def test_opd_by_setting_has_the_gradient_of_the_jsd(beta):
    student, teacher, batch = drawn()
    _, grad = gradient(opd, student, teacher, batch, divergence="jsd", beta=beta)
    p, q = student.softmax(-1), teacher.softmax(-1)
    slope = (1 - beta) * (p / ((1 - beta) * p + beta * q)).log()
    expected = p * (slope - (p * slope).sum(-1, keepdim=True))
    torch.testing.assert_close(grad, masked_mean(expected, batch))


@pytest.mark.parametrize("tail", ["renormalised", "bucket"])
def test_opd_on_the_student_s_likeliest_entries_has_their_gradient(tail):
    student, teacher, batch = drawn()
    settings = {"support": "student_top_k", "k": 2, "tail": tail}
    _, grad = gradient(opd, student, teacher, batch, **settings)
    p, q = student.softmax(-1), teacher.softmax(-1)
    is_within = p >= p.topk(2, -1).values[..., 1:]
    mass_p, mass_q = ((x * is_within).sum(-1, keepdim=True) for x in (p, q))
    if tail == "renormalised":
        p, q, rest = p / mass_p * is_within, q / mass_q, torch.zeros(())
    else:
        rest = ((1 - mass_p) / (1 - mass_q)).log()
    slope = torch.where(is_within, (p / q).log(), rest)
    expected = p * (slope - (p * slope).sum(-1, keepdim=True))
    torch.testing.assert_close(grad, masked_mean(expected, batch))


def test_grpo_has_the_policy_gradient_where_the_ratio_is_one():
    student, teacher, batch = drawn()
    _, grad = gradient(grpo, student, teacher, batch)
    # Rewards 1, 0 and 0, 1: deviations of one half make advantages of plus and minus one.
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None, None]
    expected = masked_mean(-advantages * (one_hot(batch) - student.softmax(-1)), batch)
    torch.testing.assert_close(grad, expected)


def test_the_expected_policy_gradient_is_the_gradient_of_the_expected_reward():
    """Every token of a vocabulary of five, each with its probability: no sampling error."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(V, generator=generator, requires_grad=True)
    reward = torch.randn(V, generator=generator)
    expected_reward = (logits.softmax(-1) * reward).sum()
    (exact,) = torch.autograd.grad(expected_reward, logits)

    rows = logits.expand(V, 1, V)
    tokens = torch.arange(V)[:, None]
    sampled = logits.detach().log_softmax(-1)[:, None]
    batch = TokenBatch(tokens, torch.ones(V, 1, dtype=torch.bool), None, sampled)
    advantages = (reward * logits.detach().softmax(-1))[:, None]
    loss = token_loss(head(rows), batch, Streams(advantages_BT=advantages), num_tokens=1)
    (grad,) = torch.autograd.grad(loss.value, logits)
    torch.testing.assert_close(grad, -exact)


@pytest.mark.parametrize(
    ("ratio", "advantage", "has_gradient"),
    [
        (1.29, 1.0, False),  # better already than the clip allows
        (1.27, 1.0, True),
        (1.29, -1.0, True),  # worse, and still to be pushed down
        (0.79, -1.0, False),
        (0.81, -1.0, True),
        (0.79, 1.0, True),
    ],
)
def test_the_clip_stops_only_steps_that_have_gone_far_enough(ratio, advantage, has_gradient):
    logits = torch.zeros(1, 1, V, requires_grad=True)
    sampled = torch.log(torch.tensor([[1 / V / ratio]]))
    batch = TokenBatch(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1).bool(), None, sampled)
    streams = Streams(advantages_BT=torch.tensor([[advantage]]), clip_low=0.2, clip_high=0.28)
    token_loss(head(logits), batch, streams, num_tokens=1).value.backward()
    assert bool(logits.grad.abs().sum() > 0) is has_gradient


def test_streams_add_up():
    student, teacher, batch = drawn()
    both = sft(batch)._replace(divergence_BT=0.5 * batch.mask_BT.float())
    parts = [sft(batch), Streams(divergence_BT=0.5 * batch.mask_BT.float())]

    def value(streams):
        return token_loss(head(student), batch, streams, num_tokens=7, teacher=head(teacher)).value

    torch.testing.assert_close(value(both), value(parts[0]) + value(parts[1]))


def test_the_entropy_is_that_of_the_student_on_the_mask():
    student, teacher, batch = drawn()
    loss, _ = gradient(sft, torch.zeros_like(student), teacher, batch)
    expected = batch.mask_BT.sum() * torch.log(torch.tensor(float(V)))
    torch.testing.assert_close(loss.entropy_sum_nats, expected)


def test_divergences_match_torch():
    student, teacher, _ = drawn()
    p, q = student.log_softmax(-1), teacher.log_softmax(-1)
    kl = torch.nn.functional.kl_div
    torch.testing.assert_close(
        reverse_kl(p, q), kl(q, p, reduction="none", log_target=True).sum(-1)
    )
    torch.testing.assert_close(
        forward_kl(p, q), kl(p, q, reduction="none", log_target=True).sum(-1)
    )


@pytest.mark.parametrize(
    "streams",
    [Streams(divergence_BT=torch.ones(B, T)), Streams(advantages_BT=torch.ones(B, T))],
)
def test_a_missing_stream_is_named(streams):
    student, _, batch = drawn()
    bare = TokenBatch(batch.tokens_BT, batch.mask_BT)
    with pytest.raises(NumericsError, match=r"teacher logits|sampled log-probabilities"):
        token_loss(head(student), bare, streams, num_tokens=1)
