"""From where an interrupted run goes on, and what one that is interrupted leaves behind."""

import shutil
import signal
from contextlib import suppress
from pathlib import Path

from offaxis.errors import Interrupted, OffaxisError
from offaxis.recipe import Recipe
from offaxis.runs import RunFolder
from offaxis.training.ranks import Ranks
from offaxis.training.recorder import Observer, Progress, Recorder
from offaxis.training.resume import States, step_of
from offaxis.training.schedule import planned_steps
from offaxis.training.trainer import StreamTrainer


def left_state(
    recipe: Recipe, folder: RunFolder, states: States, observe: Observer, ranks: Ranks
) -> Path | None:
    """The state an interrupted run continues from, its folder as it was then; else an empty one."""
    step = 0
    if ranks.is_first:
        state, notes = states.newest()
        step = 0 if state is None else step_of(state)
        kept = {s for s in planned_steps(recipe) if s <= step}
        if state is not None and not kept <= set(folder.steps()):
            notes.append(f"{state} is not continued from: a checkpoint before it is missing")
            step = 0
        elif state is not None:
            notes.append(f"continues after step {step}")
        for note in notes:
            observe(Progress(recipe.run_name, step, recipe.steps.max, None, note=note))
        _clear(folder, kept if step else set(), keep_states=bool(step))
    step = round(ranks.total([float(step)])[0])
    return states.path(step) if step else None


def _clear(folder: RunFolder, kept: set[int], *, keep_states: bool) -> None:
    """Remove what an interrupted run has left beyond the point it continues from."""
    wanted = {folder.checkpoint(step) for step in kept}
    wanted |= {folder.manifest_path, folder.recipe_path, folder.log_path} if keep_states else set()
    wanted |= {States.folder_of(folder.root)} if keep_states else set()
    for path in folder.root.iterdir() if folder.root.exists() else ():
        if path not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def finish(recorder: Recorder, trainer: StreamTrainer, state: Path | None) -> None:
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
