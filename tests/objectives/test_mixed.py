"""Mixtures against their parts: what is combined, and that the ends are the pure objectives."""

import pytest
import torch

from offaxis.objectives.base import Head, TokenBatch
from offaxis.objectives.grpo import grpo
from offaxis.objectives.loss import token_facts, token_loss
from offaxis.objectives.mixed import components, mixed
from offaxis.objectives.opd import opd
from offaxis.objectives.reverse_kl_by_k1 import reverse_kl_by_k1

B, T, V = 4, 3, 5
FORMS = ("loss", "advantages", "additive")


def head(logits):
    return Head(logits, torch.eye(V))


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, B, T, V, generator=generator)
    tokens = torch.randint(V, (B, T), generator=generator)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    sampled = student.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    batch = TokenBatch(tokens, mask, rewards, sampled)
    return student, teacher, token_facts(head(student), batch, teacher=head(teacher))


def gradient(streams, student, teacher, batch):
    logits = student.clone().requires_grad_()
    loss = token_loss(head(logits), batch, streams, num_tokens=8, teacher=head(teacher))
    loss.value.backward()
    return logits.grad


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("form", "distilled"), [("loss", opd), ("advantages", reverse_kl_by_k1)])
def test_a_convex_mixture_has_the_convex_combination_of_the_gradients(alpha, form, distilled):
    student, teacher, batch = drawn()
    found = gradient(mixed(batch, alpha=alpha, form=form), student, teacher, batch)
    one = gradient(distilled(batch), student, teacher, batch)
    other = gradient(grpo(batch), student, teacher, batch)
    torch.testing.assert_close(found, alpha * one + (1 - alpha) * other)
    assert (one - other).abs().max() > 0.1


def test_the_additive_form_adds_the_log_ratio_to_the_advantage():
    _, _, batch = drawn()
    found = mixed(batch, form="additive", coefficient=3.0).advantages_BT
    ratio = (batch.teacher_logprobs_BT - batch.logprobs_BT) * batch.mask_BT
    torch.testing.assert_close(found, grpo(batch).advantages_BT + 3 * ratio)


@pytest.mark.parametrize("form", FORMS)
def test_the_weighted_components_add_up_to_the_mixture(form):
    student, teacher, batch = drawn(1)
    whole = gradient(mixed(batch, alpha=0.3, form=form, coefficient=2.0), student, teacher, batch)
    parts = components(batch, alpha=0.3, form=form, coefficient=2.0)
    each = [c.weight * gradient(c.streams, student, teacher, batch) for c in parts.values()]
    torch.testing.assert_close(whole, sum(each))
