"""What a run says about itself: its recipe, what it came from, precision and versions."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from offaxis.recipe import ModelSource, Recipe, TeacherSource, UpdateSource, recipe_hash


def manifest_of(recipe: Recipe) -> dict[str, Any]:
    """What a run is, without a clock: two runs of one recipe on one machine write the same."""
    precision = recipe.precision
    packages = ("torch", "transformers", "accelerate", "tokenizers", "offaxis")
    return {
        "name": recipe.run_name,
        "arm": recipe.arm,
        "objective": recipe.objective.kind,
        "seed": recipe.seed,
        "anchor": "checkpoint-0",
        "forward_kl": "KL(checkpoint-0 || model) on samples of checkpoint-0, temperature 1, "
        "mean per token",
        "recipe": recipe.resolved(),
        "recipe_hash": recipe_hash(recipe),
        "start": _origin(recipe.resumed or recipe.start),
        "teacher": None if recipe.teacher is None else _taught_by(recipe.teacher),
        "precision": precision.model_dump(include={"weights", "autocast", "checkpoints"})
        | ({"rounding": "stochastic"} if precision.stochastic_rounding else {}),
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in packages},
    }


def _origin(source: ModelSource | UpdateSource) -> dict[str, Any]:
    """What a model is, in the manifest of a run that uses it."""
    if source.recipe is not None:
        recipe = source.recipe
        origin = {"name": recipe.name or recipe.arm, "recipe_hash": recipe_hash(recipe)}
        return origin | source.model_dump(include={"step", "fraction"}, exclude_none=True)
    if isinstance(source, ModelSource) and source.hub is not None:
        return {"name": source.hub, "hub": source.hub}
    if source.path is not None:
        return {"name": Path(source.path).name, "path": source.path}
    return {"name": "from scratch"}


def _taught_by(source: TeacherSource) -> dict[str, Any]:
    """What the teacher is: as any model, or what serves it."""
    if source.url is not None:
        return {"name": source.model or source.url, "url": source.url, "engine": source.engine}
    return _origin(source)


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # a source tree that was not installed
        return "unknown"
