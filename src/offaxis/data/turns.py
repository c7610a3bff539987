"""What a row says: texts and chats, checked where they are read."""

from typing import Any

from offaxis.data.base import Chat
from offaxis.data.columns import at
from offaxis.errors import RecipeError


def prompt_of(row: dict[str, Any], paths: tuple[str, ...], place: str) -> str | Chat:
    """The prompt of a row: a chat as it is, texts joined."""
    if len(paths) == 1 and isinstance(at(row, paths[0]), list):
        return _chat(at(row, paths[0]), f"{place}, {paths[0]}")
    texts = [at(row, path) for path in paths]
    wrong = [path for path, text in zip(paths, texts, strict=True) if text is not None]
    wrong = [path for path in wrong if not isinstance(at(row, path), str)]
    joined = "\n\n".join(text for text in texts if isinstance(text, str) and text)
    if wrong or not joined:
        path = wrong[0] if wrong else paths[0]
        raise _not_a_text(f"{place}, {path}", at(row, path), "a text, or messages of a chat")
    return joined


def completion_of(value: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """A demonstration: a text, or a chat of the one turn that is learned."""
    if isinstance(value, list):
        turns = _chat(value, where)
        if len(turns) == 1:
            return str(turns[0]["content"])
    if not isinstance(value, str):
        raise _not_a_text(where, value, "a text")
    return value


def split_chat(value: Any, where: str) -> tuple[Chat, str]:  # noqa: ANN401 - whatever a file holds
    """A whole chat as what is read and the last turn, which is learned."""
    turns = _chat(value, where)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        roles = ", ".join(str(turn["role"]) for turn in turns)
        raise _not_a_text(where, roles, "a chat that ends with a turn of the assistant", "roles ")
    return turns[:-1], str(turns[-1]["content"])


def _chat(value: Any, where: str) -> list[dict[str, Any]]:  # noqa: ANN401 - whatever a file holds
    """Messages, checked: each has a role and a content that is a text."""
    turns = value if isinstance(value, list) else []
    good = [
        isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
        for turn in turns
    ]
    if not good or not all(good):
        raise _not_a_text(where, value, 'messages, each {"role": text, "content": text}')
    return list(turns)


def _not_a_text(where: str, found: Any, expected: str, kind: str = "") -> RecipeError:  # noqa: ANN401
    shown = repr(found)
    return RecipeError(
        where,
        expected=expected,
        found=kind + (shown if len(shown) < 100 else shown[:100] + "..."),
        do="correct data.columns (or data.layout), or the row",
    )
