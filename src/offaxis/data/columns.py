"""Which columns hold what: of the user's files by the recipe, of public sets by this table."""

import json
from typing import Any, NamedTuple


class Columns(NamedTuple):
    """The columns of prompts, demonstrations and answers, as dotted paths into nested ones.

    Attributes:
        prompt: A text or the messages of a chat; several texts are joined by blank lines, those
            that are empty left out.
        completion: The demonstration.
        messages: A whole chat instead of the two: its last turn is the demonstration, what comes
            before it the prompt.
        answer: What rewards compare with; several columns become one JSON object.
    """

    prompt: tuple[str, ...] = ()
    completion: str = ""
    messages: str = ""
    answer: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """Every column that is read."""
        every = (*self.prompt, self.completion, self.messages, *self.answer)
        return [path for path in every if path]

    @property
    def has_completion(self) -> bool:
        """Whether there is something to learn from."""
        return bool(self.completion or self.messages)


LAYOUTS = {
    # BytedTsinghua-SIA/DAPO-Math-17k. The dataset card was not read; its re-uploads declare these
    # features, and the code that trains on it reads these columns.
    "dapo-math-17k": Columns(prompt=("prompt",), answer=("reward_model.ground_truth",)),
    # allenai/Dolci-Think-SFT-7B and -32B. The card was not read; code that trains on it reads
    # `messages`, and derived sets declare them as lists of role and content. Of chats of several
    # turns only the last is learned here: templates of thinking models cut the thoughts of earlier
    # turns out.
    "dolci-think-sft": Columns(messages="messages"),
    # agentica-org/DeepCoder-Preview-Dataset. The card was not read; the columns are those that the
    # training code of rLLM and the Tinker cookbook reads. `tests` is JSON, and its inside differs
    # between the subsets: what runs it has to know all of them. Not confirmed: that every subset
    # has `starter_code` and `metadata`; a column that is missing counts as empty.
    "deepcoder": Columns(
        prompt=("problem", "starter_code"), answer=("tests", "starter_code", "metadata")
    ),
}
"""The columns of public sets by the name that a recipe calls them."""

OPTIONAL = frozenset({"starter_code", "metadata"})
"""Columns of the layouts that not every subset has."""


def at(row: dict[str, Any], path: str) -> Any:  # noqa: ANN401 - whatever a file holds
    """What stands at a dotted path of a row; None where it leads nowhere.

    A number in the path is a place in a list: `solutions.0`.
    """
    value: Any = row
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def reference_of(row: dict[str, Any], paths: tuple[str, ...]) -> str:
    """The answer columns as one text, empty where there is none."""
    if len(paths) == 1:
        return _text(at(row, paths[0]))
    values = {path: at(row, path) for path in paths}
    if not any(value not in (None, "") for value in values.values()):
        return ""
    return json.dumps(values, ensure_ascii=False)


def _text(value: Any) -> str:  # noqa: ANN401 - whatever a file holds
    """A value as text: texts as they are, numbers as they are written, the rest as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
