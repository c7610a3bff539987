"""What every source of data gives: records by number, in an order that a key decides."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# A chat: messages as templates read them, {"role": ..., "content": ...}.
Chat = Sequence[dict[str, Any]]


class Record(NamedTuple):
    """One item, before a template has made texts of it.

    Attributes:
        prompt: A text, or the messages of a chat.
        completion: What is to be learned; empty where nothing is demonstrated.
        reference: What a reward compares with; empty where there is nothing to compare with.
        item: Its number in the source.
        place: Where it stands, for messages.
    """

    prompt: str | Chat
    completion: str
    reference: str
    item: int
    place: str


@runtime_checkable
class Records(Protocol):
    """A source of records: two streams, of training and held out, that share no prompt."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def num_problems(self) -> int | None:
        """How many held-out records there are; None where more are always made."""
        ...

    def training(self, *, seed: int, index: int, attempt: int = 0) -> Record:
        """A record of the training stream; later attempts are other ones for the same place."""
        ...

    def held_out(self, *, seed: int, index: int, attempt: int = 0) -> Record:
        """A record that is never trained on."""
        ...

    def judge(self, item: int, completion: str) -> float | None:
        """The source's own verdict on a completion; None where it has none."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What a manifest says of the source."""
        ...


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a prompt belongs to the held-out fraction, by its text alone.

    So copies of a prompt are never on both sides, wherever they stand: DAPO-Math-17k, for example,
    holds each of its problems a hundred times.
    """
    # A checksum would not do: those of texts that differ in a digit or two differ in few bits.
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < fraction * 2**64


def position(key: str, length: int, index: int, attempt: int) -> int:
    """Which of `length` things stands at a place of an endless, shuffled stream.

    Every epoch is a permutation of its own. A later attempt for the same place is a uniform draw,
    so that the rest of the stream does not move where a thing could not be used.
    """
    if attempt:
        return Random(f"{key}/{index}/{attempt}").randrange(length)
    epoch, place = divmod(index, length)
    return int(_order(f"{key}/{epoch}", length)[place])


@lru_cache(maxsize=4)
def _order(key: str, length: int) -> NDArray[np.int64]:
    """A permutation that depends on the key and the length alone."""
    # The old generator: NumPy promises that its streams stay as they are, and of no other.
    seed = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
    return np.random.RandomState(seed).permutation(length)
