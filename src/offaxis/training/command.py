"""The verb `train`: one recipe, its plan or its run, and what a person sees meanwhile."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from offaxis.console import messages, progress
from offaxis.recipe import load_recipe
from offaxis.training.plan import plan
from offaxis.training.recorder import Observer, Progress
from offaxis.training.run import train


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
        console.print(
            f"{stage.name}: up to {stage.steps} steps, {stage.checkpoint_bytes / 1e6:.0f} MB, "
            f"about {stage.seconds:.0f} s, {stage.peak_bytes / 1e6:.0f} MB of memory in a step"
        )
    if dry_run:
        return {
            "run": recipe.run_name,
            "seconds": sum(stage.seconds for stage in left),
            "stages": [stage._asdict() for stage in stages],
            "recipe": recipe.resolved(),
        }
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
