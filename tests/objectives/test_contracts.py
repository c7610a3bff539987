"""What every objective promises, whichever there are."""

from dataclasses import replace

import pytest
import torch

from offaxis.catalog import collect, settings_model
from offaxis.objectives.base import Head, Objective, TokenBatch
from offaxis.objectives.loss import token_facts, token_loss

OBJECTIVES = collect("offaxis.objectives", Objective)
B, T, V = 4, 6, 7


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, B, T, V, generator=generator)
    mask = torch.rand(B, T, generator=generator) < 0.6
    tokens = torch.randint(V, (B, T), generator=generator)
    sampled = student.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    batch = TokenBatch(tokens, mask, rewards, sampled)
    return student, teacher, token_facts(head(student), batch, teacher=head(teacher))


def head(logits):
    """A head that makes these very logits."""
    return Head(logits, torch.eye(V))


def gradient(objective, student, teacher, batch):
    logits = student.clone().requires_grad_()
    num = int(batch.mask_BT.sum())
    loss = token_loss(head(logits), batch, objective(batch), num_tokens=num, teacher=head(teacher))
    loss.value.backward()
    return loss.value.detach(), logits.grad


def test_the_objectives_are_found():
    by_sample = {"forward_kl_by_k3", "reverse_kl_by_k1", "reverse_kl_by_k2"}
    assert set(OBJECTIVES) == {"grpo", "mixed", "opd", "sft", *by_sample}


def test_only_the_divergence_itself_needs_the_whole_vocabulary_of_the_teacher():
    whole = [name for name, each in OBJECTIVES.items() if each.needs_vocabulary({})]
    assert sorted(whole) == ["mixed", "opd"]
    assert not OBJECTIVES["mixed"].needs_vocabulary({"form": "advantages"})


@pytest.mark.parametrize("name", OBJECTIVES)
class TestEveryObjective:
    def test_says_what_it_is_where_it_is_from_and_what_its_settings_are(self, name):
        objective = OBJECTIVES[name]
        assert objective.source
        assert objective.summary.endswith(".")
        settings_model(objective.function)()  # every setting has a default

    def test_learns_something(self, name):
        _, grad = gradient(OBJECTIVES[name], *drawn())
        assert grad.abs().max() > 1e-3

    def test_has_no_gradient_off_the_mask(self, name):
        student, teacher, batch = drawn()
        _, grad = gradient(OBJECTIVES[name], student, teacher, batch)
        assert grad[~batch.mask_BT].abs().max() == 0

    def test_is_blind_to_masked_tokens(self, name):
        student, teacher, batch = drawn()
        value, grad = gradient(OBJECTIVES[name], student, teacher, batch)
        tokens = torch.where(batch.mask_BT, batch.tokens_BT, (batch.tokens_BT + 1) % V)
        off = ~batch.mask_BT[..., None]
        sampled = torch.where(batch.mask_BT, batch.sampled_logprobs_BT, -torch.inf)
        facts = {
            name: torch.where(batch.mask_BT, getattr(batch, name), torch.nan)
            for name in ("logprobs_BT", "teacher_logprobs_BT", "entropy_BT", "divergence_BT")
        }
        other = replace(batch, tokens_BT=tokens, sampled_logprobs_BT=sampled, **facts)
        moved = torch.where(off, student + 3 * torch.arange(V), student)
        other_value, other_grad = gradient(OBJECTIVES[name], moved, teacher, other)
        assert torch.equal(value, other_value)
        assert torch.equal(grad[batch.mask_BT], other_grad[batch.mask_BT])


def test_opd_rests_where_the_student_is_the_teacher():
    student, _, batch = drawn()
    value, grad = gradient(OBJECTIVES["opd"], student, student.clone(), batch)
    assert value == 0
    assert grad.abs().max() < 1e-7


def test_grpo_rests_where_rewards_are_equal_in_each_group():
    student, teacher, batch = drawn()
    equal = replace(batch, rewards_PG=torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    _, grad = gradient(OBJECTIVES["grpo"], student, teacher, equal)
    assert grad.abs().max() == 0
