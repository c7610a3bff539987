"""One recipe to one run folder: prerequisites first, each trained once and kept.

    OUT/models/<arm>-<hash>/    what runs start from or learn from, cached by the hash of its recipe
    OUT/runs/<name>/            the runs themselves

A folder counts as finished when its manifest says so and its checkpoints are there; the manifest
says so last. Anything less continues from the state it was left in, or begins again without one.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from offaxis.catalog import find
from offaxis.errors import Interrupted
from offaxis.files import write_text
from offaxis.objectives.base import Objective
from offaxis.recipe import Recipe, recipe_hash, recipe_text
from offaxis.runs import RunFolder
from offaxis.tasks.base import Task
from offaxis.training.arguments import on_cpu
from offaxis.training.constraints.building import confine
from offaxis.training.continuing import finish, left_state
from offaxis.training.folders import (
    alone,
    check_writable,
    is_finished,
    model_folder,
    run_folder,
    trained_folder,
)
from offaxis.training.manifest import manifest_of
from offaxis.training.opening import Taught, open_student, open_teacher, solved_at_start
from offaxis.training.products import bfloat16_products
from offaxis.training.quiet import quiet_and_reproducible
from offaxis.training.ranks import Ranks
from offaxis.training.recorder import Observer, Progress, Recorder
from offaxis.training.resume import Origin, States, step_of
from offaxis.training.rollouts import ends_of
from offaxis.training.samplers import sampler_of
from offaxis.training.sources import Documents, Rollouts, Source
from offaxis.training.stopping import Stop, stoppable
from offaxis.training.tasks import open_records, task_of
from offaxis.training.trainer import StreamTrainer


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


def _train(recipe: Recipe, folder: RunFolder, setting: _Setting) -> RunFolder:
    """Reuse a finished run, or train it from where it was left."""
    with alone(folder) if setting.ranks.is_first else nullcontext():
        setting.ranks.wait()  # whoever holds the lock speaks for all
        if is_finished(folder, recipe):
            if setting.ranks.is_first:  # what a kill between manifest and removal has left
                States.remove_from(folder.root)
            return folder
        for prerequisite in recipe.prerequisites:
            if trained_folder(prerequisite, setting.out) == model_folder(prerequisite, setting.out):
                _train(prerequisite, model_folder(prerequisite, setting.out), setting)
        precision = recipe.precision
        is_narrow = precision.weights == "bfloat16" and on_cpu(precision)
        with quiet_and_reproducible(precision.threads), bfloat16_products(wanted=is_narrow):
            _run(recipe, folder, setting)
    return folder


def _run(recipe: Recipe, folder: RunFolder, setting: _Setting) -> None:
    """Train one run; its manifest says finished only at the very end."""
    out, observe, stop, ranks = setting
    if stop.signal is not None:
        raise Interrupted(stop.signal, "the same command continues from here")
    records = open_records(recipe)
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    manifest = manifest_of(recipe)
    if records is not None:
        manifest["data"] = records.provenance()
    made_by = manifest["versions"] | {"processes": ranks.count}
    states = States(folder.root, Origin(recipe_hash(recipe), made_by))
    state = left_state(recipe, folder, states, observe, ranks)
    step = 0 if state is None else step_of(state)

    def tell(note: str = "") -> None:
        observe(Progress(recipe.run_name, step, recipe.steps.max, None, note=note))

    tell()
    model, tokenizer = open_student(recipe, out)
    task = task_of(recipe, records, tokenizer, ends_of(model, tokenizer))
    taught = open_teacher(recipe, out, task, model, tokenizer)
    for note in taught.notes:
        tell(note)
    if ranks.is_first:
        folder.write_manifest({**manifest, "steps": [], "finished": False})
        write_text(folder.recipe_path, recipe_text(recipe))
    source = _source(recipe, task, tokenizer, taught, objective=objective, ranks=ranks)
    known = solved_at_start(recipe, out)
    recorder = Recorder(
        recipe, folder, task, tokenizer, observe, stop=stop, ranks=ranks, known=known
    )
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
    if numbers < model.num_parameters():
        tell(f"{numbers:,} trainable numbers of {model.num_parameters():,}")
    recorder.draw_ruler()
    states.keep(
        tokenizer, {"recorder": recorder, "source": source, "confinement": trainer.confinement}
    )
    if state is not None:
        trainer.create_optimizer()  # constraints around its step remember, too
        states.recall(state, ranks)
    finish(recorder, trainer, state)
    outcome = _outcome(recorder)
    if "too_long" in outcome:
        tell(f"{outcome['too_long']} documents longer than data.max_tokens were left out")
    manifest["precision"] |= {"device": trainer.model.device.type}
    if ranks.is_first:
        folder.write_manifest(manifest | {"trainable_numbers": numbers} | outcome)
        States.remove_from(folder.root)
    ranks.wait()


def _source(
    recipe: Recipe,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    taught: Taught,
    *,
    objective: Objective,
    ranks: Ranks,
) -> Source:
    """What every step learns from: rollouts, or documents."""
    if not objective.rollouts:
        return Documents(task, tokenizer, recipe.data.mixture, recipe.seed)
    return Rollouts(
        task,
        tokenizer,
        recipe,
        sampler=sampler_of(recipe, tokenizer, taught.num_ids),
        teacher=taught.model if recipe.rollouts.source == "teacher" else None,
        scorer=taught.scorer if objective.teacher else None,
        ranks=ranks,
    )


def _outcome(recorder: Recorder) -> dict[str, Any]:
    """What the manifest of a finished run says of its end."""
    outcome = {
        "steps": recorder.saved,
        "accuracy_start": recorder.lines[0]["accuracy"],
        "accuracy_final": recorder.lines[-1]["accuracy"],
        "finished": True,
    }
    too_long = round(sum(line.get("too_long", 0) for line in recorder.lines))
    return outcome | ({"too_long": too_long} if too_long else {})


def _nobody(_: Progress) -> None:
    """Observe nothing."""
