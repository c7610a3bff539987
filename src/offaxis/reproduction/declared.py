"""Reading what is declared in TOML: claims and published numbers."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from offaxis.recipe.refusal import explained, refusal
from offaxis.recipe.table import Table

Declared = TypeVar("Declared", bound=Table)


def read(model: type[Declared], path: Path) -> Declared:
    """Read a file of declarations.

    Raises:
        RecipeError: If it cannot be read, is no TOML, or does not fit the model.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        said = error.strerror or str(error)
        raise refusal(str(path), "", "a file of declarations", said, "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise refusal(str(path), "", "TOML", str(error), "correct the line") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise explained(error, model, str(path)) from error
