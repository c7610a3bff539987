"""The prefix that one side has and the other has not, where taking it off makes them agree."""

from collections.abc import Iterable, Iterator
from itertools import product

Renaming = dict[str, str]
"""From a side's own names to those that both sides share: no two have the same."""

_FRONTS = (
    "model.",
    "transformer.",
    "gpt_neox.",
    "app.",
    "app.model.",
    "app.state_dict.",
    "state_dict.",
    "model.state_dict.",
)
_LANGUAGE = (
    ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model."),
)


def agreements(old: Iterable[str], new: Iterable[str]) -> list[tuple[Renaming, Renaming]]:
    """Find the prefixes whose removal makes most names of two sides agree.

    The names as they are come first: nothing is taken off unless more of them agree for it. A
    prefix that would give two tensors of one side the same name is no candidate.

    Returns:
        The shared names of the old side's and of the new side's tensors; several such pairs only
        where they agree on as many names, but bring other tensors together.
    """
    mine, theirs = list(_renamings(old)), list(_renamings(new))
    best = [(mine[0], theirs[0])]
    most = len(_matches(mine[0], theirs[0]))
    for a, b in product(mine, theirs):
        matches = _matches(a, b)
        if len(matches) > most:
            best, most = [(a, b)], len(matches)
        elif len(matches) == most and most and all(matches != _matches(*held) for held in best):
            best.append((a, b))
    as_they_are = _matches(mine[0], theirs[0])
    return best[:1] if len(as_they_are) == most else best


def _matches(old: Renaming, new: Renaming) -> set[tuple[str, str]]:
    """The pairs of own names that share a name."""
    held = {shared: name for name, shared in new.items()}
    return {(name, held[shared]) for name, shared in old.items() if shared in held}


def _renamings(names: Iterable[str]) -> Iterator[Renaming]:
    """The names as they are, then without each prefix that some of them have."""
    plain = {name: name for name in names}
    yield plain
    yielded = [plain]
    for front in ("", *_FRONTS):
        for language in (False, True):
            found = {name: _shortened(name, front, language=language) for name in plain}
            if found not in yielded and len(set(found.values())) == len(found):
                yielded.append(found)
                yield found


def _shortened(name: str, front: str, *, language: bool) -> str:
    name = name.removeprefix(front)
    if language:
        for long, short in _LANGUAGE:
            if name.startswith(long):
                return short + name.removeprefix(long)
    return name
