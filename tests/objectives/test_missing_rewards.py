"""Rewards that could not be judged: no part of their group, and no loss of their own."""

from math import nan

import torch

from offaxis.objectives.base import TokenBatch
from offaxis.objectives.grpo import group_advantages, grpo


def test_a_missing_reward_changes_nothing_for_the_others():
    whole = torch.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 5.0]])
    gaps = torch.tensor([[1.0, nan, 0.0, 3.0], [nan, 2.0, 2.0, 5.0]])
    advantages = group_advantages(gaps)
    torch.testing.assert_close(advantages[~gaps.isnan()].reshape(2, 3), group_advantages(whole))
    assert advantages[gaps.isnan()].tolist() == [0.0, 0.0]


def test_a_group_with_one_or_no_reward_prefers_nothing():
    gaps = torch.tensor([[nan, nan, nan], [nan, 1.0, nan], [1.0, 1.0, nan]])
    assert group_advantages(gaps).tolist() == torch.zeros(3, 3).tolist()


def test_without_gaps_advantages_are_the_plain_ones():
    rewards = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    centred = rewards - rewards.mean(1, keepdim=True)
    expected = centred / rewards.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(group_advantages(rewards), expected)


def test_its_tokens_carry_no_weight():
    tokens = torch.zeros(4, 5, dtype=torch.long)
    rewards = torch.tensor([[1.0, 0.0, nan, 0.0]])
    mask = torch.ones(4, 5, dtype=torch.bool)
    streams = grpo(TokenBatch(tokens, mask, rewards, torch.zeros(4, 5)))
    assert streams.advantages_BT[2].abs().max() == 0
    assert bool(streams.advantages_BT.isfinite().all())
