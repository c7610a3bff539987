"""The verb `train`: one recipe, its plan or its run, and what a person sees meanwhile."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from offaxis.console import messages, progress
from offaxis.errors import CheckpointError
from offaxis.recipe import Recipe, load_recipe
from offaxis.training.cost import FORMULA
from offaxis.training.plan import Stage, absent_files, plan
from offaxis.training.recorder import Observer, Progress
from offaxis.training.run import train
from offaxis.training.tasks import open_records


def train_command(
    path: Path,
    overrides: Sequence[str] = (),
    out: Path = Path("runs"),
    *,
    dry_run: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train a recipe's run and the models it starts from.

    Args:
        path: The TOML recipe.
        overrides: `key=value` changes to it.
        out: The folder of runs and models.
        dry_run: Say what would be done, and stop.
        console: Where the progress goes; standard error by default.

    Returns:
        The run folder and its accuracies; for a dry run the recipe and the stages of the plan.

    Raises:
        OffaxisError: As `load_recipe` and `train`.
    """
    console = console or messages()
    console.quiet = console.quiet or os.environ.get("RANK", "0") != "0"  # one process speaks
    recipe = load_recipe(path, overrides)
    stages = plan(recipe, out)
    left = [stage for stage in stages if not stage.is_finished]
    for stage in left:
        console.print(described(stage))
    if any(stage.work for stage in left):
        console.print(f"GPU-hours: {FORMULA}, for sequences as long as the recipe allows")
    if dry_run:
        return {
            "run": recipe.run_name,
            "seconds": sum(stage.seconds for stage in left),
            "stages": [as_dict(stage) for stage in stages],
            "recipe": recipe.resolved(),
        }
    _require_records(recipe)
    _require_models(left)
    with shown(console) as observe:
        folder = train(recipe, out, observe=observe)
    if left:
        console.print(f"{recipe.run_name}: {time_split(folder.log())}")
    manifest = folder.manifest() or {}
    return {
        "run": str(folder.root),
        "accuracy_start": manifest["accuracy_start"],
        "accuracy_final": manifest["accuracy_final"],
    }


def described(stage: Stage) -> str:
    """What a stage will do, as a line for a person."""
    time = f"about {stage.seconds:.0f} s"
    if stage.work is not None:
        time = f"{stage.tokens:.3g} tokens, about {stage.work.gpu_hours:.3g} GPU-hours"
    line = (
        f"{stage.name}: up to {stage.steps} steps, {stage.checkpoint_bytes / 1e6:.0f} MB, "
        f"{time}, {stage.peak_bytes / 1e6:.0f} MB of memory in a step"
    )
    return "\n  ".join([line, *(f"not here yet: {file}" for file in stage.absent)])


def as_dict(stage: Stage) -> dict[str, Any]:
    """A stage for programs."""
    if stage.work is None:
        return stage._asdict()
    hours = {"gpu_hours": stage.work.gpu_hours, "formula": FORMULA}
    return stage._asdict() | {"work": stage.work._asdict() | hours}


def _require_records(recipe: Recipe) -> None:
    """Refuse data that are missing before anything is trained.

    Raises:
        RecipeError: If a file cannot be read.
    """
    for prerequisite in recipe.prerequisites:
        _require_records(prerequisite)
    if absent_files(recipe):
        open_records(recipe)


def _require_models(stages: Sequence[Stage]) -> None:
    """Refuse models that are missing, the only files that can be once data are there.

    Raises:
        CheckpointError: If a folder of a stage that is still to be trained does not exist.
    """
    for stage in stages:
        for place in stage.absent:
            raise CheckpointError(
                place,
                expected=f"the folder of a model that {stage.name} needs",
                found="no such folder",
                do="check the path in the recipe; nothing was trained",
            )


def time_split(log: Sequence[Mapping[str, Any]]) -> str:
    """Where the seconds of a run's steps went, from its log."""
    spent = {
        name: sum(line.get(f"{name}_seconds", 0.0) for line in log)
        for name in ("rollout", "reward", "teacher", "training")
    }
    total = sum(spent.values()) or 1.0
    parts = (f"{name} {s:.1f} s ({s / total:.0%})" for name, s in spent.items())
    return f"time of the steps: {', '.join(parts)}"


@contextmanager
def shown(console: Console) -> Iterator[Observer]:
    """An observer that shows a bar for each model in work."""
    with progress(console) as bars:
        tasks: dict[str, Any] = {}

        def observe(report: Progress) -> None:
            if report.note:
                bars.console.print(f"{report.run}: {report.note}")
            if report.run not in tasks:
                tasks[report.run] = bars.add_task(report.run, total=report.max_steps)
            known = "" if report.accuracy is None else f"  accuracy {report.accuracy:.3f}"
            total = report.step if report.finished else report.max_steps
            bars.update(
                tasks[report.run],
                completed=report.step,
                total=total,
                description=f"{report.run}{known}",
            )

        yield observe
