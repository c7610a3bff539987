"""Recipes from disk: read, override, and refuse with the key and what is known there."""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from offaxis.catalog import find, settings_model
from offaxis.errors import CatalogError, RecipeError
from offaxis.recipe.parts import Recipe
from offaxis.recipe.refusal import explained as _explained
from offaxis.recipe.refusal import refusal as _error

# Where a recipe names other files, relative to itself.
_SOURCES = (("start",), ("teacher",), ("subspace", "of"), ("subspace", "norm_of"), ("mask", "of"))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and the recipes it names, apply `key=value` overrides, check everything.

    Args:
        path: The TOML file; recipes it names are relative to it.
        overrides: Dotted keys with TOML values, such as `optimizer.lr=1e-4`; a word that is no TOML
            value is taken as a string. `start.recipe.seed=1` reaches into a prerequisite.

    Raises:
        RecipeError: If a file cannot be read, a key is unknown, a value has the wrong type, or the
            parts do not fit together.
    """
    content = _read(path, ())
    for override in overrides:
        apply_override(content, override)
    return recipe_from(content, str(path))


def recipe_from(content: Mapping[str, Any], where: str) -> Recipe:
    """Check the content of a resolved recipe.

    Raises:
        RecipeError: As `load_recipe`.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise _explained(error, Recipe, where) from error
    _check_fit(recipe, where)
    return recipe


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as TOML."""
    return tomli_w.dumps(recipe.resolved())


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 (hex) of the resolved recipe; the recipes it builds on are part of it."""
    text = json.dumps(recipe.resolved(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's content with the recipes it names read in their place."""
    path = path.resolve()
    if path in parents:
        raise _error(
            str(path), "start", "recipes that end in a configuration", "a circle", "cut it"
        )
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _error(
            str(path), "", "a recipe", error.strerror or str(error), "check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _error(str(path), "", "TOML", str(error), "correct the line") from error
    for source in sources_in(content):
        if isinstance(source.get("recipe"), str):
            source["recipe"] = _read(path.parent / source["recipe"], (*parents, path))
        for key in ("path", "anchor"):
            if isinstance(source.get(key), str):
                source[key] = _beside(path, source[key])
    for key in ("files", "evaluation_files"):
        data = content.get("data")
        if isinstance(data, dict) and isinstance(data.get(key), list):
            data[key] = [_beside(path, f) if isinstance(f, str) else f for f in data[key]]
    return content


def sources_in(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tables of a recipe that name files: paths and recipes."""
    for place in _SOURCES:
        table: Any = content
        for key in place:
            table = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict):
            yield table


def _beside(recipe: Path, named: str) -> str:
    """A path as the recipe names it, made absolute."""
    return str((recipe.parent / Path(named).expanduser()).resolve())


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one dotted key of a recipe's content in place.

    Raises:
        RecipeError: If the override is not `key=value`, or the key leads through a value.
    """
    dotted, equals, text = override.partition("=")
    *tables, key = (part.strip() for part in dotted.split("."))
    if not equals or not all((*tables, key)):
        raise _error(
            "--set",
            dotted,
            "key=value, such as seed=1",
            repr(override),
            "write the key, = and the value",
        )
    table = content
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise _error(
                "--set", dotted, "a key inside a table", f"{name} is a value", "shorten the key"
            )
    try:
        table[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[key] = text.strip()


def _check_fit(recipe: Recipe, where: str) -> None:
    """Refuse unknown plug-ins, their unknown settings, and parts that do not fit together."""
    # Imported late: objectives need torch, and most mistakes can be told without it.
    from offaxis.objectives.base import Objective  # noqa: PLC0415
    from offaxis.recipe.data_fit import check_data  # noqa: PLC0415
    from offaxis.recipe.teaching import check_teacher  # noqa: PLC0415

    for prerequisite in recipe.prerequisites:
        _check_fit(prerequisite, f"{where} ({prerequisite.arm})")
    try:
        objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    except CatalogError as error:
        raise RecipeError(where, expected=error.expected, found=error.found, do=error.do) from error
    settings = settings_model(objective.function)
    try:
        settings.model_validate(recipe.objective.settings)
    except ValidationError as error:
        raise _explained(error, settings, where, "objective") from error
    if objective.rollouts and not recipe.data.prompts:
        raise _error(where, "data.prompts", "at least 1 for rollouts", "0", "set data.prompts")
    if not objective.rollouts and not recipe.data.mixture:
        raise _error(where, "data.mixture", "documents to learn from", "none", "set data.mixture")
    check_teacher(recipe, objective, where)
    check_data(recipe, objective, where)
    _check_split(recipe, objective.rollouts, where)


def _check_split(recipe: Recipe, has_rollouts: bool, where: str) -> None:
    """Refuse more micro-batches than there are things to split."""
    data, parts = recipe.data, recipe.optimizer.micro_batches
    whole = data.prompts if has_rollouts else sum(data.mixture.values())
    if parts > whole:
        things = "prompts" if has_rollouts else "documents"
        expected = f"at most {whole}, the {things} of a step"
        do = f"lower it, or read more {things} in a step"
        raise _error(where, "optimizer.micro_batches", expected, str(parts), do)
