"""Mathematical answers, compared by what they mean: 1/2 is 0.5."""

import logging
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

from offaxis.errors import require
from offaxis.rewards.base import Scorer, reward
from offaxis.rewards.deadlines import DeadlinePool
from offaxis.tasks.base import Document

Seconds = Annotated[float, Field(gt=0, le=3600)]


@reward(source="Math-Verify (github.com/huggingface/Math-Verify)")
def math(*, deadline_seconds: Seconds = 10.0, workers: PositiveInt = 2) -> Scorer:
    """One where Math-Verify finds the answer equal to the reference, else zero.

    A pair cannot be judged (None) where the reference is empty or no mathematics, or where the
    comparison is not finished within its deadline: its process is then killed and replaced.
    Math-Verify's own time limit is a signal, which works in a main thread alone and not inside long
    calls; it is switched off.

    Args:
        deadline_seconds: What one comparison may take; most take milliseconds.
        workers: How many processes compare side by side.

    Raises:
        UsageError: If math-verify is not installed.
    """
    require("math_verify", "math", "rewards.kind")
    pool = DeadlinePool(compare, seconds=deadline_seconds, workers=workers)

    def scores(
        documents: Sequence[Document], completions: Sequence[str], *, key: str
    ) -> list[float | None]:
        pairs = [(d.reference, c) for d, c in zip(documents, completions, strict=True)]
        return pool.map(pairs)

    return scores


def compare(pair: tuple[str, str]) -> float | None:
    """Judge one completion; without a time limit, for a process that can be killed.

    Args:
        pair: The reference and the completion.

    Returns:
        1 or 0; None where the reference is not mathematics.
    """
    from math_verify import parse, verify  # noqa: PLC0415 - an extra, and in a process of its own

    # It warns at every call that its limit is off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    reference, completion = pair
    # LaTeX is recognised inside its delimiters alone.
    is_marked = "$" in reference or r"\boxed" in reference
    right = parse(reference if is_marked else f"${reference}$", parsing_timeout=None)
    if not reference.strip() or not right:
        return None
    given = parse(completion, parsing_timeout=None)
    return float(verify(right, given, timeout_seconds=None))
