"""What a task is: documents to learn from, problems to solve, and a rule that judges."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple


class Document(NamedTuple):
    """A text to learn from; the loss is taken on the answer, the prompt is only read."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """A family of documents and problems, each item a function of (seed, index) alone.

    Attributes:
        name: What a recipe calls it.
        alphabet: Every character, one token each, in the order of the token ids.
        end: The end-of-text character.
        padding: The character that fills rows; it is never learned.
        kinds: What a document of each kind looks like, drawn from a keyed generator.
        problem_kind: The kind whose prompts are the problems and whose answers are correct.
        verify: Whether a completion (with its end-of-text) solves the problem of this prompt.
        held_out: Whether a document belongs to the problems that are never trained on.
    """

    name: str
    alphabet: str
    end: str
    padding: str
    kinds: dict[str, Callable[[Random], Document]]
    problem_kind: str
    verify: Callable[[str, str], bool]
    held_out: Callable[[Document], bool]
    answer_length: int = field(default=0)

    def document(self, kind: str, *, seed: int, index: int) -> Document:
        """The document to train on at a position of the stream with this seed."""
        return self._draw("train", kind, seed, index, is_held_out=False)

    def problem(self, *, seed: int, index: int) -> Document:
        """A held-out problem with its correct answer."""
        return self._draw("evaluation", self.problem_kind, seed, index, is_held_out=True)

    def _draw(
        self, stream: str, kind: str, seed: int, index: int, *, is_held_out: bool
    ) -> Document:
        # A string seeds Random through SHA-512: the same item on every platform and in any order.
        random = Random(f"{self.name}/{stream}/{kind}/{seed}/{index}")
        while True:
            document = self.kinds[kind](random)
            if self.held_out(document) is is_held_out:
                return document
