"""What is evaluated: models, runs and checkpoints, each with its recipe and its anchor."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from offaxis.errors import CheckpointError, UsageError
from offaxis.recipe import Recipe, load_recipe
from offaxis.runs import RunFolder

ANCHOR_STEP = 0


class Subject(NamedTuple):
    """One model to evaluate.

    Attributes:
        model: What it is called: the name of the run, or of the folder.
        step: The training step of a checkpoint.
        path: The Hugging Face folder.
        anchor: The folder of the model whose samples the forward KL is taken on.
        recipe: The task and the settings.
    """

    model: str
    step: int | None
    path: Path
    anchor: Path
    recipe: Recipe


class Choices(NamedTuple):
    """What the command line says about all subjects."""

    recipe: Path | None = None
    overrides: Sequence[str] = ()
    anchor: Path | None = None
    steps: Sequence[int] = ()


def subjects(paths: Sequence[Path], choices: Choices) -> list[Subject]:
    """Every model that the paths name; of a run, all its checkpoints or the chosen steps.

    Raises:
        UsageError: If a recipe or an anchor is missing.
        CheckpointError: If a folder holds no model, or a run not the chosen step.
        RecipeError: If a recipe cannot be read.
    """
    return [subject for path in paths for subject in _subjects(path, choices)]


def _subjects(path: Path, choices: Choices) -> list[Subject]:
    folder = RunFolder(path)
    if folder.steps():
        return [_checkpoint(folder, step, choices) for step in _chosen(folder, choices.steps)]
    if choices.steps:
        raise UsageError(
            "--step",
            expected="a run folder, which has steps",
            found=str(path),
            do="leave --step out for a model or a checkpoint",
        )
    run, steps = RunFolder(path.resolve().parent), RunFolder(path.resolve().parent).steps()
    step = next((s for s in steps if run.checkpoint(s) == path.resolve()), None)
    if step is not None and run.recipe_path.is_file():
        return [_checkpoint(run, step, choices)]
    if not path.is_dir():
        raise CheckpointError(
            str(path),
            expected="a run folder, a checkpoint or a Hugging Face model",
            found="no such folder",
            do="check the path",
        )
    return [_model(path, choices)]


def _chosen(folder: RunFolder, steps: Sequence[int]) -> list[int]:
    known = folder.steps()
    missing = [step for step in steps if step not in known]
    if missing:
        raise CheckpointError(
            str(folder.root),
            expected=f"a checkpoint of step {missing[0]}",
            found=f"steps {', '.join(map(str, known))}",
            do="choose one of these with --step",
        )
    return list(steps) or known


def _checkpoint(run: RunFolder, step: int, choices: Choices) -> Subject:
    recipe = choices.recipe or (run.recipe_path if run.recipe_path.is_file() else None)
    if recipe is None:
        raise _no_recipe(run.root)
    anchor = choices.anchor or run.checkpoint(ANCHOR_STEP)
    if not anchor.is_dir():
        raise _no_anchor(run.root)
    read = load_recipe(recipe, choices.overrides)
    return Subject(run.root.resolve().name, step, run.checkpoint(step), anchor, read)


def _model(path: Path, choices: Choices) -> Subject:
    """A model that is no checkpoint of a run of ours."""
    if choices.recipe is None:
        raise _no_recipe(path)
    recipe = load_recipe(choices.recipe, choices.overrides)
    anchor = choices.anchor or (Path(recipe.start.path) if recipe.start.path else None)
    if anchor is None:
        raise _no_anchor(path)
    return Subject(path.resolve().name, None, path, anchor, recipe)


def _no_recipe(path: Path) -> UsageError:
    return UsageError(
        str(path),
        expected="a recipe, which says the task and how it is evaluated",
        found="none beside the model",
        do="name one with --recipe RECIPE.toml",
    )


def _no_anchor(path: Path) -> UsageError:
    return UsageError(
        str(path),
        expected="an anchor, from which the forward KL is measured",
        found="no checkpoint-0 of a run, and no start.path in the recipe",
        do="name one with --anchor MODEL",
    )
