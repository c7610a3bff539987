"""An exact answer: the final answer of a completion is the reference, letter by letter."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from offaxis.rewards.base import Scorer, reward
from offaxis.tasks.base import Document

Extraction = Literal["whole", "marker", "boxed"]


@reward(source="answer extraction of Hendrycks et al. 2021, arXiv:2103.03874 (`\\boxed`)")
def exact(
    *, extract: Extraction = "whole", marker: str = "Answer:", ignore_case: bool = True
) -> Scorer:
    r"""One where the final answer equals the reference, zero where it does not or is missing.

    Both are normalised first: Unicode NFKC, spaces collapsed, enclosing `$` and a final full stop
    taken off. A document without a reference cannot be judged.

    Args:
        extract: What the final answer is: the `whole` completion, what follows the last `marker` on
            its line, or what is inside the last `\boxed{...}`.
        marker: The text before the answer, where `extract` is `marker`.
        ignore_case: Whether capitals count as small letters.
    """

    def score(document: Document, completion: str) -> float | None:
        if not document.reference:
            return None
        answer = final_answer(completion, extract, marker)
        if answer is None:
            return 0.0
        wanted, given = (normalised(text, ignore_case) for text in (document.reference, answer))
        return float(given == wanted)

    def scores(
        documents: Sequence[Document], completions: Sequence[str], *, key: str
    ) -> list[float | None]:
        return list(map(score, documents, completions))

    return scores


def final_answer(completion: str, extract: Extraction, marker: str) -> str | None:
    """The final answer of a completion; None where it gives none."""
    if extract == "boxed":
        return _boxed(completion)
    if extract == "whole":
        return completion
    _, found, rest = completion.rpartition(marker)
    return rest.strip().split("\n")[0] if found else None


def normalised(text: str, ignore_case: bool) -> str:
    """A text without what is not part of an answer."""
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()
    text = text.removesuffix(".").strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$").strip()
    return text.casefold() if ignore_case else text


def _boxed(text: str) -> str | None:
    r"""What is inside the last `\boxed{...}`, braces inside it counted."""
    _, found, rest = text.rpartition(r"\boxed{")
    if not found:
        return None
    depth = 1
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return rest[:place]
    return None
