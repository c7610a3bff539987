"""One recipe to one run folder: prerequisites first, each trained once and kept.

    OUT/models/<arm>-<hash>/    what runs start from or learn from, cached by the hash of its recipe
    OUT/runs/<name>/            the runs themselves

A folder counts as finished when its manifest says so and its checkpoints are there; the manifest
says so last. Anything less is trained again from its start.
"""

import platform
import shutil
import tempfile
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from transformers import PreTrainedModel

from offaxis.catalog import find
from offaxis.console import messages
from offaxis.errors import RecipeError, ResultsError
from offaxis.files import exclusively, write_text
from offaxis.objectives.base import Objective
from offaxis.recipe import (
    ModelSource,
    Recipe,
    TeacherSource,
    UpdateSource,
    recipe_hash,
    recipe_text,
)
from offaxis.runs import RunFolder
from offaxis.training.constraints.building import confine
from offaxis.training.constraints.sources import find_update
from offaxis.training.models import start_model
from offaxis.training.quiet import quiet_and_reproducible
from offaxis.training.recorder import Observer, Progress, Recorder
from offaxis.training.rollouts import ends_of
from offaxis.training.samplers import sampler_of
from offaxis.training.sources import Documents, Rollouts
from offaxis.training.tasks import generated_task, open_records, task_of
from offaxis.training.teachers import HttpTeacher, shared_tokens
from offaxis.training.trainer import StreamTrainer

# What a manifest that says finished is read for, with the types it has to have.
_PROMISED: dict[str, type | tuple[type, ...]] = {
    "finished": bool,
    "recipe_hash": str,
    "steps": list,
    "accuracy_start": (float, int, NoneType),
    "accuracy_final": (float, int, NoneType),
}


def train(recipe: Recipe, out: Path, *, observe: Observer | None = None) -> RunFolder:
    """Train the models a recipe builds on, then its run; what is finished already is reused.

    Args:
        recipe: What to run.
        out: The folder of runs and models.
        observe: Told after every step of whatever is being trained.

    Returns:
        The finished run folder, `out/runs/<name>`.

    Raises:
        RecipeError: If the folder holds a finished run of another recipe, or something else.
        CheckpointError: If a model to start from cannot be opened.
        NumericsError: If the loss stops being finite.
        ResultsError: If the disk is full or cannot be written.
    """
    check_writable(out)
    return _train(recipe, run_folder(recipe, out), out, observe or _nobody)


def train_model(recipe: Recipe, out: Path, *, observe: Observer | None = None) -> RunFolder:
    """Train a prerequisite into the cache of models; arguments and errors as `train`."""
    check_writable(out)
    return _train(recipe, model_folder(recipe, out), out, observe or _nobody)


def run_folder(recipe: Recipe, out: Path) -> RunFolder:
    """Where the run of a recipe goes."""
    return RunFolder(out / "runs" / recipe.run_name)


def model_folder(recipe: Recipe, out: Path) -> RunFolder:
    """Where a prerequisite goes: its name and the first digits of its hash."""
    return RunFolder(out / "models" / f"{recipe.name or recipe.arm}-{recipe_hash(recipe)[:8]}")


def check_writable(out: Path) -> None:
    """Make the folders of runs and models, and write a byte in each before hours depend on it.

    Raises:
        ResultsError: If that cannot be done.
    """
    for folder in (out / "runs", out / "models"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0")
        except OSError as error:
            raise _unwritable(folder, error) from error


def is_finished(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether a folder holds this recipe's finished run, all its checkpoints included.

    Raises:
        RecipeError: If it holds a finished run of another recipe, or no run at all.
    """
    if not folder.root.exists():
        return False
    if not folder.root.is_dir():
        raise _occupied(folder, "a file")
    manifest = folder.manifest()
    # Hidden files are what a killed process may have left before its first manifest was whole.
    if manifest is None and any(path.name[0] != "." for path in folder.root.iterdir()):
        raise _occupied(folder, "files that no run of offaxis has left")
    if manifest is None:
        return False
    wrong = [
        key
        for key, kind in _PROMISED.items()
        if key not in manifest or not isinstance(manifest[key], kind)
    ]
    if "finished" not in wrong and not manifest["finished"]:
        return False
    if wrong:
        raise _occupied(folder, f"a manifest without a proper {' and '.join(wrong)}")
    if manifest["recipe_hash"] != recipe_hash(recipe):
        raise _occupied(folder, "a finished run of another recipe")
    return bool(manifest["steps"] == folder.steps())


def _train(recipe: Recipe, folder: RunFolder, out: Path, observe: Observer) -> RunFolder:
    """Reuse a finished run, or train it from its start."""
    with _alone(folder):
        if is_finished(folder, recipe):
            return folder
        for prerequisite in recipe.prerequisites:
            if trained_folder(prerequisite, out) == model_folder(prerequisite, out):
                train_model(prerequisite, out, observe=observe)
        shutil.rmtree(folder.root, ignore_errors=True)
        with quiet_and_reproducible(recipe.precision.threads):
            _run(recipe, folder, out, observe)
    return folder


def _run(recipe: Recipe, folder: RunFolder, out: Path, observe: Observer) -> None:
    """Train one run into an empty folder; its manifest says finished only at the very end."""
    records, generated = open_records(recipe), generated_task(recipe)
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    observe(Progress(recipe.run_name, 0, recipe.steps.max, None))
    start = recipe.start
    if recipe.resumed is not None:
        resumed = find_update(recipe.resumed, partial(trained_folder, out=out))
        start = ModelSource(path=str(resumed.checkpoint))
    trained = trained_checkpoint(start, out)
    model, tokenizer = start_model(start, generated, recipe.precision, trained)
    task = task_of(recipe, records, tokenizer, ends_of(model, tokenizer))
    if recipe.precision.weights == "bfloat16":
        model.to(torch.bfloat16)
    teacher: PreTrainedModel | None = None
    scorer: HttpTeacher | None = None
    num_ids: int | None = None
    if recipe.teacher is not None and recipe.teacher.url is not None:
        problem = task.problem(seed=recipe.evaluation.seed, index=0)
        scorer = HttpTeacher(recipe.teacher)
        scorer.check_tokens(tokenizer, [problem.prompt + problem.answer])
    elif recipe.teacher is not None:
        trained = trained_checkpoint(recipe.teacher, out)
        teacher, its_tokenizer = start_model(recipe.teacher, generated, recipe.precision, trained)
        num_ids, lines = shared_tokens(model, tokenizer, teacher, its_tokenizer, recipe.run_name)
        for line in lines:
            observe(Progress(recipe.run_name, 0, recipe.steps.max, None, note=line))
    manifest = _manifest(recipe)
    if records is not None:
        manifest["data"] = records.provenance()
    folder.write_manifest({**manifest, "steps": [], "finished": False})
    write_text(folder.recipe_path, recipe_text(recipe))
    source = (
        Rollouts(
            task,
            tokenizer,
            recipe,
            sampler=sampler_of(recipe, tokenizer, num_ids),
            teacher=teacher if recipe.rollouts.source == "teacher" else None,
            scorer=scorer if objective.teacher else None,
        )
        if objective.rollouts
        else Documents(task, tokenizer, recipe.data.mixture, recipe.seed)
    )
    recorder = Recorder(recipe, folder, task, tokenizer, observe)
    scratch = folder.root / ".trainer"  # Trainer wants a folder of its own; we leave nothing there
    recorder.trainer = StreamTrainer(
        model,
        recipe,
        source=source,
        objective=objective,
        scratch=str(scratch),
        teacher=teacher,
        num_ids=num_ids,
        callbacks=[recorder],
    )
    confinement = confine(recorder.trainer, recipe, folder, partial(trained_folder, out=out))
    recorder.trainer.confinement = confinement
    numbers = confinement.trainable_numbers
    observe(
        Progress(recipe.run_name, 0, recipe.steps.max, None, note=f"{numbers:,} trainable numbers")
    )
    recorder.trainer.train()
    shutil.rmtree(scratch, ignore_errors=True)
    device = recorder.trainer.model.device.type
    outcome = {
        "precision": manifest["precision"] | {"device": device},
        "steps": recorder.saved,
        "trainable_numbers": numbers,
        "accuracy_start": recorder.lines[0]["accuracy"],
        "accuracy_final": recorder.lines[-1]["accuracy"],
        "finished": True,
    }
    if task.too_long:
        outcome["too_long"] = task.too_long
        messages().print(
            f"{recipe.run_name}: {task.too_long} documents longer than data.max_tokens = "
            f"{recipe.data.max_tokens} were left out"
        )
    folder.write_manifest(manifest | outcome)


def trained_checkpoint(source: ModelSource, out: Path) -> Path | None:
    """The last checkpoint of a source's run, or None where the source is no recipe."""
    if source.recipe is None:
        return None
    folder = trained_folder(source.recipe, out)
    return folder.checkpoint(folder.steps()[-1])


def trained_folder(recipe: Recipe, out: Path) -> RunFolder:
    """Where a prerequisite is: among the runs if it was finished there, else among the models."""
    run = run_folder(recipe, out)
    manifest = run.manifest() or {}
    is_there = (
        manifest.get("finished") is True
        and manifest.get("recipe_hash") == recipe_hash(recipe)
        and manifest.get("steps") == run.steps()
    )
    return run if is_there else model_folder(recipe, out)


def _manifest(recipe: Recipe) -> dict[str, Any]:
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


def _alone(folder: RunFolder) -> AbstractContextManager[None]:
    """Hold a lock on a folder, so that two processes never train into it; a crash frees it."""
    return exclusively(folder.root.with_name(f".{folder.root.name}.lock"))


def _nobody(_: Progress) -> None:
    """Observe nothing."""


def _unwritable(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        str(path),
        expected="a folder that can be written",
        found=error.strerror or str(error),
        do="choose another output folder, or correct its permissions",
    )


def _occupied(folder: RunFolder, found: str) -> RecipeError:
    return RecipeError(
        str(folder.root),
        expected="no folder, or a run of this very recipe",
        found=found,
        do="choose another --out or --set name=..., or remove the folder",
    )
