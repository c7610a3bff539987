"""One recipe to one run folder: prerequisites first, each trained once and kept.

    OUT/models/<arm>-<hash>/    what runs start from or learn from, cached by the hash of its recipe
    OUT/runs/<name>/            the runs themselves

A folder counts as finished when its manifest says so and its checkpoints are there; the manifest
says so last. Anything less continues from the state it was left in, or begins again without one.
"""

import platform
import tempfile
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from offaxis.catalog import find
from offaxis.errors import Interrupted, RecipeError, ResultsError
from offaxis.files import exclusively, write_text
from offaxis.objectives.base import Objective
from offaxis.recipe import ModelSource, Recipe, recipe_hash, recipe_text
from offaxis.runs import RunFolder
from offaxis.tasks.base import Task
from offaxis.training.continuing import finish, left_state
from offaxis.training.models import check_vocabularies, start_model
from offaxis.training.quiet import quiet_and_reproducible
from offaxis.training.ranks import Ranks
from offaxis.training.recorder import Observer, Progress, Recorder
from offaxis.training.resume import Origin, States, step_of
from offaxis.training.sources import Documents, Rollouts, Source
from offaxis.training.stopping import Stop, stoppable
from offaxis.training.trainer import StreamTrainer

# What a manifest that says finished is read for, with the types it has to have.
_PROMISED: dict[str, type | tuple[type, ...]] = {
    "finished": bool,
    "recipe_hash": str,
    "steps": list,
    "accuracy_start": (float, int),
    "accuracy_final": (float, int),
}


class _Setting(NamedTuple):
    """What all runs of one command share."""

    out: Path
    observe: Observer
    stop: Stop
    ranks: Ranks


def train(recipe: Recipe, out: Path, *, observe: Observer | None = None) -> RunFolder:
    """Train the models a recipe builds on, then its run; what is finished already is reused.

    What was interrupted continues bit for bit as if it had not been.

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
        Interrupted: After a SIGTERM or Ctrl-C, with a state to continue from on the disk.
    """
    return _begun(recipe, run_folder(recipe, out), out, observe)


def train_model(recipe: Recipe, out: Path, *, observe: Observer | None = None) -> RunFolder:
    """Train a prerequisite into the cache of models; arguments and errors as `train`."""
    return _begun(recipe, model_folder(recipe, out), out, observe)


def _begun(recipe: Recipe, folder: RunFolder, out: Path, observe: Observer | None) -> RunFolder:
    """Prepare what all runs of one command share, and train."""
    ranks = Ranks.joined(on_cpu=recipe.precision.device == "cpu")
    if ranks.is_first:
        check_writable(out)
    ranks.wait()
    with stoppable() as stop:
        return _train(recipe, folder, _Setting(out, observe or _nobody, stop, ranks))


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
    wrong = [key for key, kind in _PROMISED.items() if not isinstance(manifest.get(key), kind)]
    if "finished" not in wrong and not manifest["finished"]:
        return False
    if wrong:
        raise _occupied(folder, f"a manifest without a proper {' and '.join(wrong)}")
    if manifest["recipe_hash"] != recipe_hash(recipe):
        raise _occupied(folder, "a finished run of another recipe")
    return bool(manifest["steps"] == folder.steps())


def _train(recipe: Recipe, folder: RunFolder, setting: _Setting) -> RunFolder:
    """Reuse a finished run, or train it from where it was left."""
    with _alone(folder) if setting.ranks.is_first else nullcontext():
        setting.ranks.wait()  # whoever holds the lock speaks for all
        if is_finished(folder, recipe):
            return folder
        for prerequisite in recipe.prerequisites:
            _train(prerequisite, model_folder(prerequisite, setting.out), setting)
        with quiet_and_reproducible(recipe.precision.threads):
            _run(recipe, folder, setting)
    return folder


def _run(recipe: Recipe, folder: RunFolder, setting: _Setting) -> None:
    """Train one run; its manifest says finished only at the very end."""
    out, observe, stop, ranks = setting
    if stop.signal is not None:
        raise Interrupted(stop.signal, "the same command continues from here")
    task = find("offaxis.tasks", Task, recipe.data.task)
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    manifest = _manifest(recipe)
    made_by = manifest["versions"] | {"processes": ranks.count}
    states = States(folder.root, Origin(recipe_hash(recipe), made_by))
    state = left_state(recipe, folder, states, observe, ranks)
    step = 0 if state is None else step_of(state)
    observe(Progress(recipe.run_name, step, recipe.steps.max, None))
    model, tokenizer = start_model(
        recipe.start, task, recipe.precision, trained_checkpoint(recipe.start, out)
    )
    teacher: PreTrainedModel | None = None
    if recipe.teacher is not None:
        trained = trained_checkpoint(recipe.teacher, out)
        teacher, its_tokenizer = start_model(recipe.teacher, task, recipe.precision, trained)
        check_vocabularies(tokenizer, its_tokenizer, recipe.run_name)
    if ranks.is_first:
        folder.write_manifest({**manifest, "steps": [], "finished": False})
        write_text(folder.recipe_path, recipe_text(recipe))
    source: Source = (
        Rollouts(task, tokenizer, recipe, ranks)
        if objective.rollouts
        else Documents(task, tokenizer, recipe.data.mixture, recipe.seed)
    )
    recorder = Recorder(recipe, folder, task, tokenizer, observe, stop=stop, ranks=ranks)
    states.keep(tokenizer, {"recorder": recorder, "source": source})
    trainer = recorder.trainer = StreamTrainer(
        model,
        recipe,
        source=source,
        objective=objective,
        states=states,
        teacher=teacher,
        callbacks=[recorder],
        ranks=ranks,
    )
    recorder.draw_ruler()
    if state is not None:
        states.recall(state, ranks)
    finish(recorder, trainer, state)
    device = trainer.model.device.type
    outcome = {
        "precision": manifest["precision"] | {"device": device},
        "steps": recorder.saved,
        "accuracy_start": recorder.lines[0]["accuracy"],
        "accuracy_final": recorder.lines[-1]["accuracy"],
        "finished": True,
    }
    if ranks.is_first:
        folder.write_manifest(manifest | outcome)
        states.remove()
    ranks.wait()


def trained_checkpoint(source: ModelSource, out: Path) -> Path | None:
    """The last checkpoint of a source's run, or None where the source is no recipe."""
    if source.recipe is None:
        return None
    folder = model_folder(source.recipe, out)
    return folder.checkpoint(folder.steps()[-1])


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
        "start": _origin(recipe.start),
        "teacher": None if recipe.teacher is None else _origin(recipe.teacher),
        "precision": precision.model_dump(include={"weights", "autocast", "checkpoints"}),
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in packages},
    }


def _origin(source: ModelSource) -> dict[str, Any]:
    """What a model is, in the manifest of a run that uses it."""
    if source.recipe is not None:
        recipe = source.recipe
        return {"name": recipe.name or recipe.arm, "recipe_hash": recipe_hash(recipe)}
    if source.path is not None:
        return {"name": Path(source.path).name, "path": source.path}
    return {"name": "from scratch"}


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
