"""What there is to train for a set of recipes: each prerequisite once, with what it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offaxis.recipe import Recipe, recipe_hash
from offaxis.training.folders import model_folder, run_folder
from offaxis.training.plan import Stage, plan


@dataclass(frozen=True)
class Job:
    """One model to train, and the jobs it waits for."""

    stage: Stage
    recipe: Recipe
    is_run: bool
    needs: tuple[str, ...]


def jobs_of(recipes: Sequence[Recipe], out: Path, *, named: bool = True) -> dict[str, Job]:
    """The jobs of recipes and of all that these build on, by the names of their folders.

    Args:
        recipes: What to train.
        out: The folder of runs and models.
        named: Whether the recipes go among the runs, under their names; else they go among the
            models, as what they build on does, under their arm and hash.

    Raises:
        RecipeError: If a folder holds something else.
    """
    jobs: dict[str, Job] = {}
    runs = {recipe_hash(recipe) for recipe in recipes} if named else set[str]()
    known: dict[int, str] = {}

    def add(recipe: Recipe) -> str:
        if id(recipe) in known:
            return known[id(recipe)]
        is_run = bool(runs) and recipe_hash(recipe) in runs
        needs = tuple(add(prerequisite) for prerequisite in recipe.prerequisites)
        folder = (run_folder if is_run else model_folder)(recipe, out)
        name = known[id(recipe)] = folder.root.name
        if name not in jobs:
            stage = plan(recipe, out, is_run=is_run)[-1]
            jobs[name] = Job(stage, recipe, is_run, needs)
        return name

    for recipe in recipes:
        add(recipe)
    return jobs
