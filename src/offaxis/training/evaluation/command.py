"""The verb `evaluate`: models, runs, checkpoints, each judged beside how far it went."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.console import messages, progress
from offaxis.errors import CheckpointError, NumericsError
from offaxis.recipe import ModelSource, Recipe, recipe_hash
from offaxis.tasks.base import Task
from offaxis.training.evaluation import results
from offaxis.training.evaluation.edits import Edit, apply_edit, with_nulls
from offaxis.training.evaluation.harness import Harness, check, harness_metrics
from offaxis.training.evaluation.judgement import distance, judge
from offaxis.training.evaluation.ruler import StartSamples
from offaxis.training.evaluation.subjects import Choices, Subject, subjects
from offaxis.training.models import start_model
from offaxis.training.quiet import quiet_and_reproducible
from offaxis.training.rollouts import ends_of
from offaxis.training.tasks import generated_task, open_records, task_of

Opened = tuple[PreTrainedModel, PreTrainedTokenizerBase, Task]
Ruler = tuple[StartSamples, dict[str, int]]


def evaluate_command(
    paths: Sequence[Path],
    choices: Choices,
    *,
    edits: Sequence[str] = (),
    harness: Harness | None = None,
    out: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Judge models on their task, or by lm-eval, and measure how far they are from their anchor.

    Args:
        paths: Models, runs and checkpoints.
        choices: Recipe, overrides, anchor and steps.
        edits: What to do to the weights of each, which is judged unedited first, and after each
            edit with its directions drawn at random.
        harness: Tasks of lm-eval to run instead of the recipe's problems; the forward KL is taken
            on the recipe's task all the same, for there it predicts what is forgotten elsewhere.
        out: Where the rows are written, .jsonl or .parquet.
        console: Where the progress goes; standard error by default.

    Returns:
        `rows`, one number each.

    Raises:
        OffaxisError: As `subjects`, `load_recipe` and the harness; or if a model cannot be opened,
            has not the vocabulary of its anchor, or is not finite.
    """
    console = console or messages()
    results.check_out(out)
    versions = with_nulls(edits)
    chosen = [(subject, edit) for subject in subjects(paths, choices) for edit in versions]
    index = check(harness) if harness is not None else None
    rulers: dict[tuple[Path, str], Ruler] = {}
    rows: list[results.Row] = []
    with progress(console) as bars:
        bar = bars.add_task("evaluating", total=len(chosen))
        for subject, edit in chosen:
            step = "" if subject.step is None else f", step {subject.step}"
            done = "" if edit is None else f", {edit.label}"
            bars.update(bar, description=f"{subject.model}{step}{done}")
            with quiet_and_reproducible(subject.recipe.precision.threads):
                rows += _evaluated(subject, edit, rulers, harness, index)
            bars.advance(bar)
    if out is not None:
        results.write(rows, out)
    return {"rows": rows} | ({} if out is None else {"results": str(out)})


def _evaluated(
    subject: Subject,
    edit: Edit | None,
    rulers: dict[tuple[Path, str], Ruler],
    harness: Harness | None,
    index: Any,  # noqa: ANN401 - of lm-eval, which has no types
) -> list[results.Row]:
    """The rows of one model, under one edit."""
    recipe = subject.recipe
    key = (subject.anchor.resolve(), recipe_hash(recipe))
    if key not in rulers:
        rulers[key] = _ruler(subject.anchor, recipe)
    ruler, vocabulary = rulers[key]
    model, tokenizer, task = _opened(subject.path, recipe)
    if tokenizer.get_vocab() != vocabulary:
        raise CheckpointError(
            str(subject.path),
            expected=f"the vocabulary of its anchor {subject.anchor}",
            found=f"{len(tokenizer)} and {len(vocabulary)} tokens, not the same",
            do="name the anchor that this model was trained from with --anchor",
        )
    if edit is not None:
        apply_edit(edit, model, subject.anchor, subject.path, recipe.evaluation.seed)
    away = distance(model, recipe.evaluation, ruler)
    if away.value is None or not math.isfinite(away.value):
        raise NumericsError(
            str(subject.path),
            expected="logits that are finite",
            found=f"KL(anchor || model) = {away.value}",
            do="evaluate an earlier checkpoint"
            if edit is None
            else f"make the edit {edit.text} smaller",
        )
    if harness is None:
        metrics = judge(model, tokenizer, task, recipe.evaluation)
    else:
        metrics = harness_metrics(model, tokenizer, harness, index)
    about = {
        "model": subject.model,
        "step": subject.step,
        "path": str(subject.path),
        "anchor": str(subject.anchor),
        "edit": "" if edit is None else edit.label,
        "task": task.name,
        "seed": recipe.evaluation.seed,
    }
    return [{**about, "metric": m.name} | _without_name(m._asdict()) for m in [*metrics, away]]


def _without_name(metric: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metric.items() if key != "name"}


def _ruler(anchor: Path, recipe: Recipe) -> Ruler:
    model, tokenizer, task = _opened(anchor, recipe)
    return StartSamples.draw(model, tokenizer, task, recipe.evaluation), tokenizer.get_vocab()


def _opened(path: Path, recipe: Recipe) -> Opened:
    """A model on the recipe's device, its tokenizer, and the task in its tokens."""
    source = ModelSource(path=str(path))
    model, tokenizer = start_model(source, generated_task(recipe), recipe.precision, trained=None)
    task = task_of(recipe, open_records(recipe), tokenizer, ends_of(model, tokenizer))
    accelerator = torch.accelerator.current_accelerator()
    if recipe.precision.device == "auto" and accelerator is not None:
        model = model.to(accelerator)
    return model.eval(), tokenizer, task
