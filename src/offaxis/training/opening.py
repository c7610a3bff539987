"""The models of a run: who learns, and who teaches."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.recipe import ModelSource, Recipe
from offaxis.tasks.base import Task
from offaxis.training.constraints.sources import find_update
from offaxis.training.evaluation import solved_in
from offaxis.training.folders import trained_checkpoint, trained_folder
from offaxis.training.models import start_model
from offaxis.training.tasks import generated_task
from offaxis.training.teachers import HttpTeacher, shared_tokens


def open_student(recipe: Recipe, out: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model a run starts from, in the precision that it is trained in."""
    start = recipe.start
    if recipe.resumed is not None:
        resumed = find_update(recipe.resumed, partial(trained_folder, out=out))
        start = ModelSource(path=str(resumed.checkpoint))
    generated, trained = generated_task(recipe), trained_checkpoint(start, out)
    model, tokenizer = start_model(start, generated, recipe.precision, trained)
    if recipe.precision.weights == "bfloat16":
        model.to(torch.bfloat16)
    return model, tokenizer


def solved_at_start(recipe: Recipe, out: Path) -> dict[str, float | None]:
    """What the start was found to solve when its own run ended, if that asked what this one asks.

    Many arms start from one model, and its problems are solved once. Empty where they have to be
    solved again: other problems, another precision, or data that may have changed.
    """
    before = recipe.start.recipe
    if before is None or recipe.resumed is not None or not recipe.data.task:
        return {}
    asked, was_asked = (
        (each.data.task, each.evaluation, each.precision) for each in (recipe, before)
    )
    folder = trained_folder(before, out)
    lines = folder.log()
    is_whole = bool(lines) and lines[-1]["step"] == folder.steps()[-1]
    return solved_in(lines[-1]) if is_whole and asked == was_asked else {}


class Taught(NamedTuple):
    """Who teaches a run.

    Attributes:
        model: A model in this process.
        scorer: Or one behind a server, which tells of sampled tokens alone.
        num_ids: The entries that its vocabulary and the student's share, where they differ.
        notes: What a person should know of it.
    """

    model: PreTrainedModel | None = None
    scorer: HttpTeacher | None = None
    num_ids: int | None = None
    notes: Sequence[str] = ()


def open_teacher(
    recipe: Recipe,
    out: Path,
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> Taught:
    """Open the teacher of a recipe, if it has one, and compare its tokens with the student's.

    Raises:
        CheckpointError: If it cannot be opened.
        RecipeError: If its tokens are others.
        ServerError: If its server does not answer, or splits texts otherwise.
    """
    if recipe.teacher is None:
        return Taught()
    if recipe.teacher.url is not None:
        problem = task.problem(seed=recipe.evaluation.seed, index=0)
        scorer = HttpTeacher(recipe.teacher)
        scorer.check_tokens(tokenizer, [problem.prompt + problem.answer])
        return Taught(scorer=scorer)
    generated, trained = generated_task(recipe), trained_checkpoint(recipe.teacher, out)
    teacher, its_tokenizer = start_model(recipe.teacher, generated, recipe.precision, trained)
    num_ids, notes = shared_tokens(model, tokenizer, teacher, its_tokenizer, recipe.run_name)
    return Taught(teacher, None, num_ids, notes)
