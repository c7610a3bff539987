"""The settings of Tables 2 to 9, each beside what our recipes of the paper's scale have there."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, model_validator

from offaxis.errors import RecipeError
from offaxis.recipe import Recipe, load_recipe
from offaxis.recipe.table import Table
from offaxis.reproduction.arms import arms_of
from offaxis.reproduction.declared import read

FILE = Path(__file__).with_name("presets.toml")


class Setting(Table):
    """One published setting.

    Attributes:
        table: The table it stands in.
        name: What it sets.
        published: As the paper has it; empty where it does not say.
        arm: The recipe of ours that answers to it; empty where none of its keys does.
        key: Which key of that recipe, dotted.
        note: Where ours differs, or how what is not published was decided.
    """

    table: str
    name: str
    published: str
    arm: str = ""
    key: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _says_why(self) -> "Setting":
        if bool(self.arm) is not bool(self.key):
            raise ValueError("arm and key belong together")
        if not self.note and not (self.published and self.arm):
            raise ValueError("what is not published, or has no key of ours, needs a note")
        return self


class _Settings(Table):
    settings: tuple[Setting, ...]


class Line(NamedTuple):
    """A setting as a page shows it: what is published, what is ours, and the note."""

    name: str
    published: str
    ours: str
    note: str


def load_presets(path: Path = FILE) -> dict[str, list[Setting]]:
    """Read the settings, by table.

    Raises:
        RecipeError: If the file cannot be read, or a setting is not as declared above.
    """
    found: dict[str, list[Setting]] = {}
    for setting in read(_Settings, path).settings:
        found.setdefault(setting.table, []).append(setting)
    return found


def lines(settings: Sequence[Setting]) -> list[Line]:
    """The settings beside ours.

    Raises:
        RecipeError: If a recipe has no such key.
    """
    return [
        Line(each.name, each.published or "not published", _ours(each), each.note)
        for each in settings
    ]


def _ours(setting: Setting) -> str:
    """What our recipe has at the key of a setting, as text; empty where it has no key."""
    if not setting.key:
        return ""
    value: Any = _recipe(setting.arm)
    for name in setting.key.split("."):
        held = dict(value) if isinstance(value, BaseModel | Mapping) else {}
        if name not in held:
            raise RecipeError(
                f"{FILE.name}, {setting.table}, {setting.name}",
                expected=f"a key of the recipe {setting.arm}",
                found=setting.key,
                do="correct the key, or the recipe",
            )
        value = held[name]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@cache
def _recipe(arm: str) -> Recipe:
    known = arms_of("paper")
    if arm not in known:
        raise RecipeError(
            FILE.name, expected="a recipe of the paper's scale", found=arm, do="correct the arm"
        )
    return load_recipe(known[arm])
