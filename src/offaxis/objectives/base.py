"""What an objective is: a pure function from a batch of tokens to the weights of one shared loss.

Shapes: B sequences, T tokens, P prompts, G rollouts of a prompt, D entries of the last hidden
state, V entries of the vocabulary. B = P x G for rollouts, prompt by prompt.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offaxis.errors import NumericsError
from offaxis.objectives.divergences import REVERSE_KL, Divergence

Fact = Literal["logprobs", "teacher_logprobs", "entropy", "divergence"]


class Head(NamedTuple):
    """What logits are made of: the last layer's input, and the matrix that turns it into logits.

    Attributes:
        hidden_BTD: The hidden state at each position.
        weight_VD: The matrix of the output layer.
        bias_V: Its bias, where it has one.
    """

    hidden_BTD: Float[Tensor, "B T D"]
    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, "V"] | None = None

    def logits(self) -> Float[Tensor, "B T V"]:
        """The logits of all positions at once."""
        logits: Float[Tensor, "B T V"] = torch.nn.functional.linear(*self)
        return logits

    def narrowed(self, vocabulary: int) -> "Head":
        """The head of the first entries of the vocabulary alone; what pads it is left out."""
        if vocabulary == len(self.weight_VD):
            return self
        bias_V = None if self.bias_V is None else self.bias_V[:vocabulary]
        return Head(self.hidden_BTD, self.weight_VD[:vocabulary], bias_V)


@dataclass(frozen=True)
class TokenBatch:
    """The tokens that may carry a loss, and what is known of them.

    Facts (the fields that say so) are of the student's weights at the start of the step and carry
    no gradient; they are None where no objective or control asked for them.

    Attributes:
        tokens_BT: The token that stands at each position; the logits are those that predict it.
        mask_BT: Where a loss is taken.
        rewards_PG: The reward of each rollout, where the objective needs rewards; NaN where a
            rollout could not be scored.
        sampled_logprobs_BT: Log-probability (nats) of each token under the weights and the
            precision it was sampled with.
        logprobs_BT: Fact: log-probability (nats) of each token under the student.
        teacher_logprobs_BT: Fact: log-probability (nats) of each token under the teacher.
        entropy_BT: Fact: entropy (nats) of the student at each position.
        divergence_BT: Fact: divergence (nats) between student and teacher at each position.
        proximal_logprobs_BT: What a policy ratio is taken to, where that is not
            `sampled_logprobs_BT`.
        importance_BT: What every term of a token is multiplied by, for tokens that were sampled
            from other weights; None is 1 everywhere.
        max_tokens: How many tokens a rollout may have; 0 where nobody said.
    """

    tokens_BT: Int[Tensor, "B T"]
    mask_BT: Bool[Tensor, "B T"]
    rewards_PG: Float[Tensor, "P G"] | None = None
    sampled_logprobs_BT: Float[Tensor, "B T"] | None = None
    logprobs_BT: Float[Tensor, "B T"] | None = None
    teacher_logprobs_BT: Float[Tensor, "B T"] | None = None
    entropy_BT: Float[Tensor, "B T"] | None = None
    divergence_BT: Float[Tensor, "B T"] | None = None
    proximal_logprobs_BT: Float[Tensor, "B T"] | None = None
    importance_BT: Float[Tensor, "B T"] | None = None
    max_tokens: int = 0

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on a device."""
        return replace(self, **_mapped(self, lambda tensor: tensor.to(device)))

    def part(self, rows: slice) -> "TokenBatch":
        """Some of the sequences; rewards are kept only where these are whole groups."""
        parts = _mapped(self, lambda tensor: tensor[rows])
        if self.rewards_PG is not None:
            group = self.rewards_PG.shape[1]
            parts["rewards_PG"] = self.rewards_PG[rows.start // group : rows.stop // group]
        return replace(self, **parts)

    def kept(self) -> "TokenBatch":
        """The tokens of the mask in one row of N, the only ones a loss has to look at."""
        row = replace(self, rewards_PG=None)
        return replace(row, **_mapped(row, lambda tensor: tensor[self.mask_BT][None]))

    def columns(self, columns: slice) -> "TokenBatch":
        """Some of the positions of every row."""
        row = replace(self, rewards_PG=None)
        return replace(row, **_mapped(row, lambda tensor: tensor[:, columns]))


class Streams(NamedTuple):
    """How much each token weighs in each term of the loss; a missing stream is zero everywhere.

    Attributes:
        cross_entropy_BT: Weight of minus the log-probability of the token.
        divergence_BT: Weight of the divergence between student and teacher at the position.
        advantages_BT: Advantage of the token in the clipped policy gradient.
        estimate_BT: Weight of the estimate of a divergence from the sampled token alone.
        reference_BT: Weight of the reverse KL to the frozen reference at the position.
        divergence: Which divergence.
        estimate: Which estimate (a name of `objectives.estimates`).
        clip_low: The policy ratio is clipped at 1 - clip_low.
        clip_high: The policy ratio is clipped at 1 + clip_high.
        normaliser: What the sum of all terms is divided by, if not the tokens of the mask; the
            normalisers of parts of a step add up to that of the step.
    """

    cross_entropy_BT: Float[Tensor, "B T"] | None = None
    divergence_BT: Float[Tensor, "B T"] | None = None
    advantages_BT: Float[Tensor, "B T"] | None = None
    estimate_BT: Float[Tensor, "B T"] | None = None
    reference_BT: Float[Tensor, "B T"] | None = None
    divergence: Divergence = REVERSE_KL
    estimate: str = "k2"
    clip_low: float = 0.2
    clip_high: float = 0.28
    normaliser: float | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Streams":
        """A function applied to every stream there is."""
        changed: dict[str, Any] = {
            name: function(value)
            for name, value in self._asdict().items()
            if torch.is_tensor(value)
        }
        return self._replace(**changed)

    def part(self, rows: slice) -> "Streams":
        """The streams of some of the sequences; what they are divided by stays the whole's."""
        return self.map(lambda stream: stream[rows])


class Component(NamedTuple):
    """One of the objectives that a mixture is made of.

    Attributes:
        weight: What its loss is multiplied by in the mixture.
        streams: Its own streams, without that weight.
    """

    weight: float
    streams: Streams


Components = Callable[..., dict[str, Component]]


@dataclass(frozen=True)
class Objective:
    """An objective, and what the trainer has to fetch for it.

    The trainer calls it once for the whole step, before the step is split into micro-batches: what
    it computes over sequences and groups does not depend on how the step is split.

    Attributes:
        function: Batch to streams; its keyword-only parameters are its settings.
        rollouts: Whether the tokens are the student's own samples.
        teacher: Whether there has to be a teacher.
        rewards: Whether the rollouts are to be rewarded.
        facts: The facts of the batch that it reads under some settings.
        components: Batch and settings to the objectives that it mixes, whose gradients are logged.
        source: Where the objective is defined.
    """

    function: Callable[..., Streams]
    rollouts: bool
    teacher: bool
    rewards: bool
    facts: Callable[[Mapping[str, Any]], tuple[Fact, ...]]
    components: Components
    source: str

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """The first line of its description."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def needs_vocabulary(self, settings: Mapping[str, Any]) -> bool:
        """Whether the teacher has to give its whole distribution, or the sampled token's share."""
        return self.teacher and "teacher_logprobs" not in self.facts(settings)

    def reads_reference(self, settings: Mapping[str, Any]) -> bool:
        """Whether these settings weigh the KL to a frozen reference, the student's start."""
        return bool(settings.get("reference_kl"))

    def __call__(self, batch: TokenBatch, **settings: Any) -> Streams:  # noqa: ANN401 - per objective
        """The streams of a batch."""
        return self.function(batch, **settings)


def objective(
    *,
    rollouts: bool,
    source: str,
    teacher: bool = False,
    rewards: bool = False,
    facts: tuple[Fact, ...] | Callable[[Mapping[str, Any]], tuple[Fact, ...]] = (),
    components: Components = lambda *_, **__: {},
) -> Callable[[Callable[..., Streams]], Objective]:
    """Turn a function into an objective; nothing is registered, the catalog lists the package."""

    def wrap(function: Callable[..., Streams]) -> Objective:
        reads = facts if callable(facts) else lambda _: facts
        return Objective(function, rollouts, teacher, rewards, reads, components, source)

    return wrap


def needed(tensor: Tensor | None, name: str) -> Tensor:
    """What an objective or the loss cannot do without.

    Raises:
        NumericsError: If it is not there.
    """
    if tensor is None:
        raise missing(name)
    return tensor


def missing(stream: str) -> NumericsError:
    """The error for a batch that lacks what an objective or the loss needs."""
    return NumericsError(
        "objectives",
        expected=f"a batch with {stream}",
        found="none",
        do=f"declare in @objective(...) that {stream} are needed, so that the trainer fetches them",
    )


def _mapped(batch: TokenBatch, function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """A function applied to every tensor of a batch."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: function(value) for name, value in values.items() if torch.is_tensor(value)}
