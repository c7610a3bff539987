"""One recipe to one run folder: prerequisites first, each trained once and kept.

    OUT/models/<arm>-<hash>/    what runs start from or learn from, cached by the hash of its recipe
    OUT/runs/<name>/            the runs themselves

A folder counts as finished when its manifest says so and its checkpoints are there; the manifest
says so last. Anything less continues from the state it was left in, or begins again without one.
"""

import platform
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.catalog import find
from offaxis.errors import Interrupted, OffaxisError, RecipeError, ResultsError
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
from offaxis.tasks.base import Task
from offaxis.training.constraints.building import confine
from offaxis.training.constraints.sources import find_update
from offaxis.training.models import start_model
from offaxis.training.quiet import quiet_and_reproducible
from offaxis.training.ranks import Ranks
from offaxis.training.recorder import Observer, Progress, Recorder
from offaxis.training.resume import Origin, States, step_of
from offaxis.training.rollouts import ends_of
from offaxis.training.samplers import sampler_of
from offaxis.training.schedule import planned_steps
from offaxis.training.sources import Documents, Rollouts, Source
from offaxis.training.stopping import Stop, stoppable
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


def _train(recipe: Recipe, folder: RunFolder, setting: _Setting) -> RunFolder:
    """Reuse a finished run, or train it from where it was left."""
    with _alone(folder) if setting.ranks.is_first else nullcontext():
        setting.ranks.wait()  # whoever holds the lock speaks for all
        if is_finished(folder, recipe):
            return folder
        for prerequisite in recipe.prerequisites:
            if trained_folder(prerequisite, setting.out) == model_folder(prerequisite, setting.out):
                _train(prerequisite, model_folder(prerequisite, setting.out), setting)
        with quiet_and_reproducible(recipe.precision.threads):
            _run(recipe, folder, setting)
    return folder


def _run(recipe: Recipe, folder: RunFolder, setting: _Setting) -> None:
    """Train one run; its manifest says finished only at the very end."""
    out, observe, stop, ranks = setting
    if stop.signal is not None:
        raise Interrupted(stop.signal, "the same command continues from here")
    records = open_records(recipe)
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    manifest = _manifest(recipe)
    if records is not None:
        manifest["data"] = records.provenance()
    made_by = manifest["versions"] | {"processes": ranks.count}
    states = States(folder.root, Origin(recipe_hash(recipe), made_by))
    state = _left_state(recipe, folder, states, setting)
    step = 0 if state is None else step_of(state)

    def tell(note: str = "") -> None:
        observe(Progress(recipe.run_name, step, recipe.steps.max, None, note=note))

    tell()
    model, tokenizer = _student(recipe, out)
    task = task_of(recipe, records, tokenizer, ends_of(model, tokenizer))
    taught = _teacher(recipe, out, task, model, tokenizer)
    for note in taught.notes:
        tell(note)
    if ranks.is_first:
        folder.write_manifest({**manifest, "steps": [], "finished": False})
        write_text(folder.recipe_path, recipe_text(recipe))
    source: Source = (
        Rollouts(
            task,
            tokenizer,
            recipe,
            sampler=sampler_of(recipe, tokenizer, taught.num_ids),
            teacher=taught.model if recipe.rollouts.source == "teacher" else None,
            scorer=taught.scorer if objective.teacher else None,
            ranks=ranks,
        )
        if objective.rollouts
        else Documents(task, tokenizer, recipe.data.mixture, recipe.seed)
    )
    recorder = Recorder(recipe, folder, task, tokenizer, observe, stop=stop, ranks=ranks)
    trainer = recorder.trainer = StreamTrainer(
        model,
        recipe,
        source=source,
        objective=objective,
        states=states,
        teacher=taught.model,
        num_ids=taught.num_ids,
        callbacks=[recorder],
        ranks=ranks,
    )
    trainer.confinement = confine(trainer, recipe, folder, partial(trained_folder, out=out))
    numbers = trainer.confinement.trainable_numbers
    tell(f"{numbers:,} trainable numbers")
    recorder.draw_ruler()
    states.keep(
        tokenizer, {"recorder": recorder, "source": source, "confinement": trainer.confinement}
    )
    if state is not None:
        trainer.create_optimizer()  # constraints around its step remember, too
        states.recall(state, ranks)
    _finish(recorder, trainer, state)
    outcome = {
        "precision": manifest["precision"] | {"device": trainer.model.device.type},
        "steps": recorder.saved,
        "trainable_numbers": numbers,
        "accuracy_start": recorder.lines[0]["accuracy"],
        "accuracy_final": recorder.lines[-1]["accuracy"],
        "finished": True,
    }
    too_long = round(sum(line.get("too_long", 0) for line in recorder.lines))
    if too_long:
        outcome["too_long"] = too_long
        tell(f"{too_long} documents longer than data.max_tokens were left out")
    if ranks.is_first:
        folder.write_manifest(manifest | outcome)
        states.remove()
    ranks.wait()


def _student(recipe: Recipe, out: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
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


class _Teacher(NamedTuple):
    """Who teaches a run: a model here, a server, or nobody; and what a person should know of it."""

    model: PreTrainedModel | None = None
    scorer: HttpTeacher | None = None
    num_ids: int | None = None
    notes: Sequence[str] = ()


def _teacher(
    recipe: Recipe,
    out: Path,
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> _Teacher:
    """Open the teacher and compare its tokens with the student's."""
    if recipe.teacher is None:
        return _Teacher()
    if recipe.teacher.url is not None:
        problem = task.problem(seed=recipe.evaluation.seed, index=0)
        scorer = HttpTeacher(recipe.teacher)
        scorer.check_tokens(tokenizer, [problem.prompt + problem.answer])
        return _Teacher(scorer=scorer)
    generated, trained = generated_task(recipe), trained_checkpoint(recipe.teacher, out)
    teacher, its_tokenizer = start_model(recipe.teacher, generated, recipe.precision, trained)
    num_ids, notes = shared_tokens(model, tokenizer, teacher, its_tokenizer, recipe.run_name)
    return _Teacher(teacher, None, num_ids, notes)


def _left_state(
    recipe: Recipe, folder: RunFolder, states: States, setting: _Setting
) -> Path | None:
    """The state an interrupted run continues from, its folder as it was then; else an empty one."""
    step = 0
    if setting.ranks.is_first:
        state, notes = states.newest()
        step = 0 if state is None else step_of(state)
        kept = {s for s in planned_steps(recipe) if s <= step}
        if state is not None and not kept <= set(folder.steps()):
            notes.append(f"{state} is not continued from: a checkpoint before it is missing")
            step = 0
        elif state is not None:
            notes.append(f"{recipe.run_name} continues after step {step}")
        for note in notes:
            setting.observe(Progress(recipe.run_name, step, recipe.steps.max, None, note=note))
        _clear(folder, kept if step else set(), keep_states=bool(step))
    step = round(setting.ranks.total([float(step)])[0])
    return states.path(step) if step else None


def _clear(folder: RunFolder, kept: set[int], *, keep_states: bool) -> None:
    """Remove what an interrupted run has left beyond the point it continues from."""
    wanted = {folder.checkpoint(step) for step in kept}
    wanted |= {folder.manifest_path, folder.recipe_path, folder.log_path} if keep_states else set()
    wanted |= {States.folder_of(folder.root)} if keep_states else set()
    for path in folder.root.iterdir() if folder.root.exists() else ():
        if path not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _finish(recorder: Recorder, trainer: StreamTrainer, state: Path | None) -> None:
    """Train to the end; an interruption and an error leave a state behind.

    Raises:
        Interrupted: If a signal asked for the end.
    """
    try:
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    except Exception as error:
        kept = _rescue(recorder, trainer)
        if isinstance(error, OffaxisError):
            do = f"{error.do}; the last good weights are in {kept}" if kept else error.do
            raise type(error)(
                error.where, expected=error.expected, found=error.found, do=do
            ) from error
        raise
    if not recorder.is_done:
        raise Interrupted(
            recorder.stop.signal or signal.SIGTERM,
            f"{recorder.recipe.run_name} is kept as it was after step {recorder.lines[-1]['step']};"
            " the same command continues from there",
        )


def _rescue(recorder: Recorder, trainer: StreamTrainer) -> Path | None:
    """Keep the weights of the last whole step, if they are at hand, and say where they are."""
    with suppress(OffaxisError, RuntimeError):  # what broke the run may hinder this, too
        if recorder.is_whole and recorder.lines[-1]["step"] and trainer.ranks.count == 1:
            trainer.keep_state()
            recorder.write_log()
    left = trainer.states.latest()
    steps = recorder.folder.steps()
    if left is None and steps:
        return recorder.folder.checkpoint(steps[-1])
    return left


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
