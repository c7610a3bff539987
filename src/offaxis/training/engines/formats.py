"""What a server's format has to say: the requests we send, and what is read from the answers."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

Json = Any


class Request(NamedTuple):
    """A POST to one of the server's paths."""

    path: str
    body: dict[str, Json]


class Sample(NamedTuple):
    """One completion: its tokens and the log-probability (nats) each was sampled with."""

    ids: list[int]
    logprobs: list[float]


class Sampling(NamedTuple):
    """How to sample: temperature 1, nothing cut off, nothing punished.

    Attributes:
        per_prompt: Completions of each prompt.
        max_tokens: Tokens of a completion at most.
        ends: The tokens that end one.
        seed: What the server's generator starts from, where it takes one.
    """

    per_prompt: int
    max_tokens: int
    ends: list[int]
    seed: int


@runtime_checkable
class Format(Protocol):
    """The requests and answers of one kind of server.

    On anything but the documented answer `read_*` raise a KeyError, TypeError, ValueError or
    IndexError, which the client turns into its own.
    """

    def tokenize(self, text: str) -> Request:
        """Ask for the tokens of a text, without any that would be added around it."""
        ...

    def score(self, ids: Sequence[list[int]]) -> Request:
        """Ask for the log-probability of every token given those before it."""
        ...

    def read_scores(self, answer: Json, ids: Sequence[list[int]]) -> list[list[float]]:
        """Log-probabilities of `ids[i][1:]`."""
        ...

    def sample(self, prompt: list[int], sampling: Sampling) -> Request:
        """Ask for the completions of a prompt."""
        ...

    def read_samples(self, answer: Json) -> list[Sample]:
        """The completions of the prompt."""
        ...

    def load(self, folder: str) -> Request | None:
        """Ask to serve the weights of a folder; None where the server documents no such request."""
        ...
