"""One change to a recipe and to every recipe inside it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from offaxis.recipe.parts import Recipe
from offaxis.recipe.reading import apply_override, recipe_from, sources_in

Change = Callable[[dict[str, Any]], None]


def rewritten(recipe: Recipe, change: Change, where: str) -> Recipe:
    """The recipe with a change made to its content and to that of all it builds on.

    Raises:
        RecipeError: If it is no proper recipe afterwards; `where` names it.
    """
    content = recipe.resolved()
    _rewrite(content, change)
    return recipe_from(content, where)


def overriding(by_arm: Mapping[str, Sequence[str]]) -> Change:
    """The change that overrides keys (`key=value`) by arm; those of "*" in every recipe, first."""

    def change(content: dict[str, Any]) -> None:
        for override in (*by_arm.get("*", ()), *by_arm.get(content["arm"], ())):
            apply_override(content, override)

    return change


def _rewrite(content: dict[str, Any], change: Change) -> None:
    change(content)
    for source in sources_in(content):
        if "recipe" in source:
            _rewrite(source["recipe"], change)
