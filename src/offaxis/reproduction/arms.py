"""From the name of an arm to the recipe of one draw.

A draw is a complete re-draw: the seeds of a recipe and of all that it builds on (base, teacher,
anchor, the run it goes on from) are moved on together, the initial weights with them. Draw 0 is the
recipe as it stands. Within a draw all arms share their base, teacher and anchor.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from offaxis.catalog import suggestion
from offaxis.errors import RecipeError
from offaxis.recipe import Recipe, load_recipe, overriding, recipes_folder, rewritten

Scale = Literal["tiny", "gpu", "paper"]

Changes = Mapping[str, Sequence[str]]
"""Overrides by arm, as `offaxis.recipe.overriding` takes them."""

SEEDS_APART = 10_000
"""No two seeds of one draw are as far apart, so that no two draws share one."""


@cache
def arms_of(scale: Scale) -> dict[str, Path]:
    """The recipes of a scale, by the name of their file."""
    return {path.stem: path for path in sorted((recipes_folder() / scale).rglob("*.toml"))}


def drawn(arm: str, draw: int, scale: Scale, changes: Changes | None = None) -> Recipe:
    """The recipe of an arm in one draw.

    Args:
        arm: The name of its recipe.
        draw: Which draw, from 0.
        scale: Which folder of recipes.
        changes: Overrides, of what the arm builds on, too.

    Raises:
        RecipeError: If there is no such recipe, or it is none.
    """
    known = arms_of(scale)
    if arm not in known:
        raise RecipeError(
            f"arm {arm!r}",
            expected=f"a recipe in {recipes_folder() / scale}",
            found=f"none of {len(known)}",
            do=suggestion(arm, list(known)),
        )
    override = overriding(changes or {})

    def change(content: dict[str, Any]) -> None:
        override(content)
        content["seed"] += SEEDS_APART * draw
        if "config" in content["start"]:
            content["start"]["config"]["init_seed"] += SEEDS_APART * draw

    return rewritten(_loaded(known[arm]), change, f"{arm}, draw {draw}")


@cache
def _loaded(path: Path) -> Recipe:
    return load_recipe(path)
