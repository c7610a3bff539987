"""Refusing a recipe: what is wrong, where, and what is known there."""

from collections.abc import Sequence

from pydantic import BaseModel, ValidationError

from offaxis.catalog import suggestion
from offaxis.errors import RecipeError


def explained(
    error: ValidationError, model: type[BaseModel], where: str, prefix: str = ""
) -> RecipeError:
    """Say in one message what the first mistake is, and what is known at that place.

    A key that is not known comes first: where a required one is misspelt it says so, and the key
    that is missing does not.
    """
    mistakes = error.errors()
    unknown = [mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"]
    first = (unknown or mistakes)[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join([prefix, *location] if prefix else location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = list(_model_at(model, location[:-1]).model_fields)
        return refusal(
            where,
            key,
            f"one of {', '.join(known)}",
            f"an unknown key{more}",
            suggestion(location[-1], known),
        )
    found = "nothing" if first["type"] == "missing" else f"{first['input']!r}{more}"
    if not location and isinstance(first["input"], dict):
        found = f"a table of {', '.join(first['input'])}{more}"  # its content would fill a screen
    # pydantic puts this before the messages of our own validators.
    expected = first["msg"].removeprefix("Value error, ")
    return refusal(where, key, expected, found, f"correct {key}" if key else "correct the recipe")


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    """The model of the table at a location."""
    for name in location:
        field = model.model_fields.get(name)
        annotation = field.annotation if field else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if models:
            model = models[0]
    return model


def refusal(where: str, key: str, expected: str, found: str, do: str) -> RecipeError:
    """The error of a key."""
    place = f"{where}, {key}" if key else where
    return RecipeError(place, expected=expected, found=found, do=do)
