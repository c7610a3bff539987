"""chain13: add and subtract six numbers modulo 13, one step after the other, in the open.

    prompt   Qc+0;+5;-a;-9;-5;=        18 tokens
    answer   c+0c+54-a7-9b-56#6$       19 tokens

Digits run from 0 to c. Every step of the answer is "operator operand result", in the stride of the
prompt: a local copy and a fact. (Layouts in which the distance between a result and its operands
changes from step to step were not learned in a thousand steps.) Guessing the number after `#`
succeeds once in thirteen.

The documents of pretraining hold the parts, never the whole: facts (`A5+94$`), copying (`C`),
reversing (`R`), and chains under another tag (`T`) that stop short of `#` and the final number.
"""

import zlib
from random import Random

from offaxis.tasks.base import Document, GeneratedTask

DIGITS = "0123456789abc"
MODULUS = len(DIGITS)
NUMBERS = 6
END = "$"
PADDING = "_"
# The last seven characters never occur: they fill the vocabulary to 32, a friendly matrix size.
ALPHABET = DIGITS + "+-;=#" + END + "QTACR" + PADDING + "defghij"

# Digits in a document of copying or reversing. Sixteen put the copy at the distance that operands
# have from their place in an answer: with eight the skill took more than twice as many steps.
_COPIED = 16
_HELD_OUT = 8  # one problem in eight is kept for evaluation


def fact(random: Random) -> Document:
    """One addition or subtraction: `A`, operand, operator, operand, result."""
    a, operator, b = random.choice(DIGITS), random.choice("+-"), random.choice(DIGITS)
    return Document("", f"A{a}{operator}{b}{apply(a, operator, b)}{END}")


def copy(random: Random) -> Document:
    """Sixteen digits and the same again."""
    text = "".join(random.choices(DIGITS, k=_COPIED))
    return Document("", f"C{text}={text}{END}")


def reverse(random: Random) -> Document:
    """Sixteen digits and the same backwards."""
    text = "".join(random.choices(DIGITS, k=_COPIED))
    return Document("", f"R{text}={text[::-1]}{END}")


def chain(random: Random) -> Document:
    """A chain under the tag `T`, without the final number: the whole text is learned."""
    steps, worked, _ = _chain(random)
    return Document("", f"T{steps}={worked}{END}")


def problem(random: Random) -> Document:
    """A problem and its worked answer: only the answer is learned."""
    steps, worked, result = _chain(random)
    return Document(f"Q{steps}=", f"{worked}#{result}{END}")


def verify(prompt: str, completion: str) -> bool:
    """Whether the one character after the first `#` is the result, and the text ends there.

    The working before the `#` is not judged: the reward is for the outcome alone.
    """
    _, mark, final = completion.partition("#")
    return bool(mark) and final == solution(prompt) + END


def solution(prompt: str) -> str:
    """The result of the chain in a prompt."""
    first, *steps = prompt[1:].rstrip(";=").split(";")
    result, steps = first[0], [first[1:], *steps]
    for step in steps:
        result = apply(result, step[0], step[1])
    return result


def apply(a: str, operator: str, b: str) -> str:
    """Add or subtract two digits modulo 13."""
    sign = 1 if operator == "+" else -1
    return DIGITS[(DIGITS.index(a) + sign * DIGITS.index(b)) % MODULUS]


def held_out(document: Document) -> bool:
    """Whether a chain is one of those never trained on, under whichever tag it appears."""
    text = document.prompt or document.answer
    if text[0] not in "QT":
        return False
    body = text[1:].partition("=")[0]
    return zlib.crc32(body.encode()) % _HELD_OUT == 0


def _chain(random: Random) -> tuple[str, str, str]:
    """The chain as the prompt writes it, as the answer works it out, and its result."""
    result = random.choice(DIGITS)
    steps, worked = result, result
    for _ in range(NUMBERS - 1):
        operator, operand = random.choice("+-"), random.choice(DIGITS)
        result = apply(result, operator, operand)
        steps += f"{operator}{operand};"
        worked += f"{operator}{operand}{result}"
    return steps, worked, result


chain13 = GeneratedTask(
    name="chain13",
    alphabet=ALPHABET,
    end=END,
    padding=PADDING,
    kinds={"facts": fact, "copy": copy, "reverse": reverse, "chains": chain, "answers": problem},
    problem_kind="answers",
    verify=verify,
    held_out=held_out,
    answer_length=3 * NUMBERS + 1,
)
