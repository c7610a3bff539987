"""sort13: write eight digits in ascending order; a second domain beside arithmetic.

    prompt   Q3a70b5c2=        10 tokens
    answer   02357abc$          9 tokens

Digits run from 0 to c and may repeat. Nothing is worked out in the open: every token of the answer
looks for the smallest digit that is left. Guessing succeeds practically never. The alphabet is that
of chain13, so that one base serves both, and the tag of a question is the same.
"""

import zlib
from random import Random

from offaxis.tasks.base import Document, GeneratedTask
from offaxis.tasks.chain import ALPHABET, DIGITS, END, PADDING

NUMBERS = 8
_HELD_OUT = 8  # one problem in eight is kept for evaluation


def problem(random: Random) -> Document:
    """Eight digits and the same in order: only the answer is learned."""
    digits = "".join(random.choices(DIGITS, k=NUMBERS))
    return Document(f"Q{digits}=", solution(digits) + END)


def verify(prompt: str, completion: str) -> bool:
    """Whether the completion is the prompt's digits in order, and ends there."""
    return completion == solution(prompt[1:-1]) + END


def solution(digits: str) -> str:
    """The digits in ascending order; their characters sort as their values do."""
    return "".join(sorted(digits))


def held_out(document: Document) -> bool:
    """Whether a problem is one of those never trained on."""
    return zlib.crc32(document.prompt.encode()) % _HELD_OUT == 0


sort13 = GeneratedTask(
    name="sort13",
    alphabet=ALPHABET,
    end=END,
    padding=PADDING,
    kinds={"answers": problem},
    problem_kind="answers",
    verify=verify,
    held_out=held_out,
    answer_length=NUMBERS + 1,
)
