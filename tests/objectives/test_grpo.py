"""GRPO's weights: groups, normalisers, the filter, and the reference."""

from dataclasses import replace

import pytest
import torch

from offaxis.errors import NumericsError
from offaxis.objectives.base import Head, TokenBatch
from offaxis.objectives.grpo import flat_groups, group_advantages, grpo
from offaxis.objectives.loss import token_loss

V = 5
REWARDS = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def drawn():
    """Six rollouts of 1 to 6 tokens in three groups, the second without variance."""
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.tensor([1, 2, 3, 4, 5, 6])[:, None]
    tokens = torch.randint(V, (6, 6), generator=g)
    student, reference = torch.randn(2, 6, 6, V, generator=g)
    log_p = student.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    batch = TokenBatch(tokens, mask, REWARDS, log_p, max_tokens=8)
    return student, reference, batch


def head(logits):
    return Head(logits, torch.eye(V))


def loss_and_gradient(batch, student, reference=None, parts=1, **settings):
    """The loss of a window split into so many parts."""
    streams = grpo(batch, **settings)
    logits = student.clone().requires_grad_()
    size = len(logits) // parts
    total = 0.0
    for begin in range(0, len(logits), size):
        rows = slice(begin, begin + size)
        total += token_loss(
            head(logits[rows]),
            batch.part(rows),
            streams.part(rows),
            num_tokens=streams.normaliser or 1,
            reference=None if reference is None else head(reference[rows]),
        ).value
    total.backward()
    return total.detach(), logits.grad


def policy_gradient(student, batch, advantages):
    """Of each token at ratio one: minus its advantage times the score."""
    one_hot = torch.nn.functional.one_hot(batch.tokens_BT, V)
    gradient = -advantages[:, None, None] * (one_hot - student.softmax(-1))
    return gradient * batch.mask_BT[..., None]


STANDARD = torch.tensor([1.0, -1.0, 0.0, 0.0, -1.0, 1.0])


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("settings", "advantages", "divisor"),
    [
        ({}, STANDARD, 21.0),
        ({"normaliser": "grpo"}, STANDARD, 6.0 * torch.arange(1, 7)[:, None, None]),
        ({"normaliser": "dr_grpo"}, STANDARD / 2, 6 * 8.0),
        ({"normaliser": "dr_grpo", "scale": "std"}, STANDARD, 6 * 8.0),
        ({"scale": "none"}, STANDARD / 2, 21.0),
        ({"dynamic_filter": True}, STANDARD, 21.0 - 7),
        (
            {"dynamic_filter": True, "normaliser": "grpo"},
            STANDARD,
            4.0 * torch.arange(1, 7)[:, None, None],
        ),
        ({"dynamic_filter": True, "normaliser": "dr_grpo"}, STANDARD / 2, 4 * 8.0),
    ],
)
def test_the_gradient_is_that_of_the_normaliser_however_the_window_is_split(
    settings, advantages, divisor, parts
):
    student, _, batch = drawn()
    _, found = loss_and_gradient(batch, student, parts=parts, **settings)
    expected = policy_gradient(student, batch, advantages) / divisor
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dynamic_filter", [False, True])
def test_the_reference_adds_its_reverse_kl_at_every_counted_token(dynamic_filter):
    student, reference, batch = drawn()
    plain, _ = loss_and_gradient(batch, student, dynamic_filter=dynamic_filter)
    settings = {"reference_kl": 0.3, "dynamic_filter": dynamic_filter}
    found, _ = loss_and_gradient(batch, student, reference, parts=3, **settings)
    p, r = student.log_softmax(-1), reference.log_softmax(-1)
    kl = (p.exp() * (p - r)).sum(-1)
    counted = batch.mask_BT.clone()
    if dynamic_filter:
        counted[2:4] = False
    torch.testing.assert_close(found - plain, 0.3 * kl[counted].mean())
    assert grpo.reads_reference({"reference_kl": 0.3})
    assert not grpo.reads_reference({})


def test_a_window_without_preferences_carries_no_loss_and_counts_nothing():
    _, _, batch = drawn()
    equal = replace(batch, rewards_PG=torch.ones(3, 2))
    streams = grpo(equal, dynamic_filter=True)
    assert streams.normaliser == 0
    assert streams.advantages_BT.abs().max() == 0


def test_what_could_not_be_scored_is_not_a_zero():
    _, _, batch = drawn()
    rewards = torch.tensor([[1.0, 0.0, torch.nan]])
    torch.testing.assert_close(group_advantages(rewards), torch.tensor([[1.0, -1.0, 0.0]]))
    assert group_advantages(torch.full((1, 3), torch.nan)).abs().max() == 0
    assert flat_groups(torch.tensor([[torch.nan] * 2, [1.0, torch.nan], [1.0, 0.0]])).tolist() == [
        True,
        True,
        False,
    ]
    unscored = REWARDS.clone()
    unscored[0, 0] = torch.nan
    assert grpo(replace(batch, rewards_PG=unscored)).normaliser == 21 - 1
    assert grpo(replace(batch, rewards_PG=unscored), normaliser="grpo").normaliser == 5


def test_advantages_are_standardised_within_the_group():
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 3.0, 1.0]]))
    torch.testing.assert_close(advantages.mean(1), torch.zeros(2))
    torch.testing.assert_close(advantages.std(1, correction=0), torch.ones(2))
    torch.testing.assert_close(advantages[0, 0], torch.tensor(3.0).sqrt())


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_are_no_preference(reward):
    assert group_advantages(torch.full((2, 7), reward)).abs().max() == 0


def test_what_is_missing_is_named():
    _, _, batch = drawn()
    with pytest.raises(NumericsError, match="rewards"):
        grpo(replace(batch, rewards_PG=None))
    with pytest.raises(NumericsError, match="how many tokens"):
        grpo(replace(batch, max_tokens=0), normaliser="dr_grpo")
