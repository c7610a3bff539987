"""What an objective is: a pure function from a batch of tokens to the weights of one shared loss.

Shapes: B sequences, T tokens, P prompts, G rollouts of a prompt, V entries of the vocabulary.
B = P x G for rollouts, prompt by prompt.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offaxis.errors import NumericsError


@dataclass(frozen=True)
class TokenBatch:
    """The tokens that may carry a loss, and what is known of them.

    Attributes:
        tokens_BT: The token that stands at each position; the logits are those that predict it.
        mask_BT: Where a loss is taken.
        rewards_PG: The reward of each rollout, where the objective needs rewards.
        sampled_logprobs_BT: Log-probability (nats) of each token under the weights and the
            precision it was sampled with.
        teacher_logprobs_BT: Log-probability (nats) of each token under the teacher, where the
            objective needs no more of it.
        importance_BT: What every term of a token is multiplied by, for tokens that were sampled
            from other weights; detached, None is 1 everywhere.
    """

    tokens_BT: Int[Tensor, "B T"]
    mask_BT: Bool[Tensor, "B T"]
    rewards_PG: Float[Tensor, "P G"] | None = None
    sampled_logprobs_BT: Float[Tensor, "B T"] | None = None
    teacher_logprobs_BT: Float[Tensor, "B T"] | None = None
    importance_BT: Float[Tensor, "B T"] | None = None


class Streams(NamedTuple):
    """How much each token weighs in each term of the loss; a missing stream is zero everywhere.

    Attributes:
        cross_entropy_BT: Weight of minus the log-probability of the token.
        divergence_BT: Weight of the divergence between student and teacher at the position.
        advantages_BT: Advantage of the token in the clipped policy gradient.
        divergence: Which divergence (a name of `objectives.divergences`).
        clip_low: The policy ratio is clipped at 1 - clip_low.
        clip_high: The policy ratio is clipped at 1 + clip_high.
    """

    cross_entropy_BT: Float[Tensor, "B T"] | None = None
    divergence_BT: Float[Tensor, "B T"] | None = None
    advantages_BT: Float[Tensor, "B T"] | None = None
    divergence: str = "reverse_kl"
    clip_low: float = 0.2
    clip_high: float = 0.28


@dataclass(frozen=True)
class Objective:
    """An objective, and what the trainer has to fetch for it.

    Attributes:
        function: Batch to streams; its keyword-only parameters are its settings.
        rollouts: Whether the tokens are the student's own samples.
        teacher: Whether the teacher's logits are needed.
        rewards: Whether the rollouts are to be rewarded.
        source: Where the objective is defined.
    """

    function: Callable[..., Streams]
    rollouts: bool
    teacher: bool
    rewards: bool
    source: str

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """The first line of its description."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def needs_vocabulary(self, settings: dict[str, Any]) -> bool:
        """Whether these settings weigh a divergence, which needs all of the teacher's logits."""
        fact_BT, mask_BT = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
        batch = TokenBatch(
            mask_BT.long(), mask_BT, torch.zeros(1, 1), sampled_logprobs_BT=fact_BT,
            teacher_logprobs_BT=fact_BT,
        )  # fmt: skip
        return self(batch, **settings).divergence_BT is not None

    def __call__(self, batch: TokenBatch, **settings: Any) -> Streams:  # noqa: ANN401 - per objective
        """The streams of a batch."""
        return self.function(batch, **settings)


def objective(
    *, rollouts: bool, source: str, teacher: bool = False, rewards: bool = False
) -> Callable[[Callable[..., Streams]], Objective]:
    """Turn a function into an objective; nothing is registered, the catalog lists the package."""

    def wrap(function: Callable[..., Streams]) -> Objective:
        return Objective(function, rollouts, teacher, rewards, source)

    return wrap


def missing(stream: str) -> NumericsError:
    """The error for a batch that lacks what an objective or the loss needs."""
    return NumericsError(
        "objectives",
        expected=f"a batch with {stream}",
        found="none",
        do=f"declare in @objective(...) that {stream} are needed, so that the trainer fetches them",
    )
