"""What a task is: documents to learn from, problems to solve, and a rule that judges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol, runtime_checkable


class Document(NamedTuple):
    """A text to learn from; the loss is taken on the answer, the prompt is only read.

    Attributes:
        prompt: What the model reads.
        answer: What it learns, up to and with its end-of-text; empty where nothing is demonstrated.
        reference: What a reward compares a completion with, such as the right number or the tests.
        item: The number of the item in its source, for a rule that needs more than texts.
    """

    prompt: str
    answer: str
    reference: str = ""
    item: int = -1


@runtime_checkable
class Task(Protocol):
    """A source of documents and held-out problems, each item a function of (seed, index) alone.

    Generated tasks and the user's own data both are tasks; what trains, samples and judges knows
    no more of them than this.
    """

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def problem_kind(self) -> str:
        """The kind whose prompts are the problems of training."""
        ...

    @property
    def answer_length(self) -> int:
        """Tokens that a completion may have when problems are solved."""
        ...

    @property
    def num_problems(self) -> int | None:
        """How many different held-out problems there are; None where more are always made."""
        ...

    @property
    def too_long(self) -> int:
        """How many documents have been left out so far because they were too long."""
        ...

    def document(self, kind: str, *, seed: int, index: int) -> Document:
        """The document to train on at a position of the stream with this seed."""
        ...

    def problem(self, *, seed: int, index: int) -> Document:
        """A held-out problem: none of its prompts is among the documents of training."""
        ...

    def score(self, document: Document, completion: str) -> float | None:
        """What a completion earns; None where it cannot be judged, which is not the same as 0."""
        ...

    def scores(
        self, documents: Sequence[Document], completions: Sequence[str]
    ) -> list[float | None]:
        """`score` of each pair; rules that wait for others judge them side by side."""
        ...


@dataclass(frozen=True)
class GeneratedTask:
    """A task whose items are drawn, with an alphabet and a verifier of its own.

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

    @property
    def num_problems(self) -> None:
        """There is no last problem."""
        return None

    @property
    def too_long(self) -> int:
        """All documents have the length they are made with."""
        return 0

    def document(self, kind: str, *, seed: int, index: int) -> Document:
        """The document to train on at a position of the stream with this seed."""
        return self._draw("train", kind, seed, index, is_held_out=False)

    def problem(self, *, seed: int, index: int) -> Document:
        """A held-out problem with its correct answer."""
        return self._draw("evaluation", self.problem_kind, seed, index, is_held_out=True)

    def score(self, document: Document, completion: str) -> float | None:
        """One for a completion that the verifier accepts, else zero."""
        return float(self.verify(document.prompt, completion))

    def scores(
        self, documents: Sequence[Document], completions: Sequence[str]
    ) -> list[float | None]:
        """`score` of each pair."""
        return list(map(self.score, documents, completions))

    def _draw(
        self, stream: str, kind: str, seed: int, index: int, *, is_held_out: bool
    ) -> Document:
        # A string seeds Random through SHA-512: the same item on every platform and in any order.
        random = Random(f"{self.name}/{stream}/{kind}/{seed}/{index}")
        while True:
            document = self.kinds[kind](random)
            if self.held_out(document) is is_held_out:
                return document
