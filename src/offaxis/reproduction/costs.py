"""What each entry costs, before anything is done, and what of it is there already."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from offaxis.recipe import Recipe
from offaxis.reproduction.entries import Entry
from offaxis.reproduction.probes import PROBES
from offaxis.reproduction.probes.base import Runs
from offaxis.reproduction.probing import visits
from offaxis.reproduction.study import Study, measured_runs, study_jobs
from offaxis.training import model_folder
from offaxis.training.jobs import Job
from offaxis.training.schedule import planned_steps

# Seconds of one core for one matrix of one checkpoint with its nulls, as stored and as bf16, fitted
# to studies of the tiny laboratory. Estimates, within about a factor of two elsewhere.
_UNIT_SECONDS = 0.06
_MATRICES_OF_A_LAYER = 7


class Cost(NamedTuple):
    """What is left to do, and what there is in all.

    Attributes:
        id: The entry; `all` for several together.
        title: What it shows.
        arms: Arms trained for it.
        draws: Complete re-draws of the arm with the most.
        runs: Runs of its arms, the models they build on not counted.
        models: All of them, and those models.
        kept: Of these, how many are there already.
        core_minutes: Estimated time on one core for what is left to train and to measure, and for
            probes that have not been asked.
        megabytes: Of all checkpoints, those that are there included.
    """

    id: str
    title: str
    arms: int = 0
    draws: int = 0
    runs: int = 0
    models: int = 0
    kept: int = 0
    core_minutes: float = 0.0
    megabytes: float = 0.0


def costs(
    study: Study, entries: Sequence[Entry], out: Path, **how: bool
) -> tuple[Cost, list[Cost]]:
    """The cost of a study, and that of each entry were it asked for alone.

    Args:
        study: The entries together.
        entries: Its entries.
        out: The folder of what is there.
        how: What `Entry.draws` was asked for.
    """
    recipes = study.recipes()
    jobs = study_jobs(recipes, out)
    folders = {
        draw: {arm: model_folder(recipe, out) for arm, recipe in arms.items()}
        for draw, arms in recipes.items()
    }

    measured = {name for draw in folders for name in measured_runs(draw, out)}

    def cost(name: str, title: str, draws: Mapping[str, int], probes: Sequence[str]) -> Cost:
        there = {arm: count for arm, count in draws.items() if arm in study.draws}
        if not there:
            return Cost(name, title)
        asked = {
            draw: {arm: run for arm, run in arms.items() if draw < there.get(arm, 0)}
            for draw, arms in folders.items()
        }
        runs = [run.root.name for arms in asked.values() for run in arms.values()]
        needed = [jobs[each] for each in _with_needs(runs, jobs)]
        return Cost(
            name,
            title,
            len(there),
            max(there.values()),
            len(runs),
            len(needed),
            sum(job.stage.is_finished for job in needed),
            _minutes(needed, [jobs[run] for run in runs if run not in measured])
            + asking_minutes(probes, asked, out),
            sum(job.stage.checkpoint_bytes for job in needed) / 1e6,
        )

    alone = [cost(e.id, e.title, e.draws(**how), e.probes) for e in entries]
    return cost("all", "together", study.draws, study.probes), alone


def print_costs(found: Sequence[Cost], console: Console, title: str) -> None:
    """A table, one entry a line."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("entry", "title"):
        table.add_column(heading, no_wrap=heading == "entry")
    for heading in ("arms", "draws", "runs", "models", "kept", "core-min", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in found:
        numbers = [cost.arms, cost.draws, cost.runs, cost.models, cost.kept]
        shown = [*map(str, numbers), f"{cost.core_minutes:.0f}", f"{cost.megabytes:.0f}"]
        table.add_row(cost.id, cost.title, *(shown if cost.arms else [""] * len(shown)))
    console.print(table)


def in_words(cost: Cost, workers: int) -> str:
    """The cost as two lines for a person."""
    return (
        f"Together {cost.runs} runs of {cost.arms} arms in up to {cost.draws} draws: "
        f"{cost.models} models, {cost.kept} kept, {cost.megabytes:.0f} MB on disk.\n"
        f"About {cost.core_minutes:.0f} core-minutes, {cost.core_minutes / workers:.0f} minutes "
        f"with {workers} worker(s); steps are upper bounds where a run stops on accuracy."
    )


def _with_needs(names: Iterable[str], jobs: Mapping[str, Job]) -> set[str]:
    """The jobs and all that they wait for."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(jobs[name].needs)
    return found


def _minutes(needed: Iterable[Job], runs: Iterable[Job]) -> float:
    """Training what is not there, and measuring some runs."""
    training = sum(job.stage.seconds for job in needed if not job.stage.is_finished)
    return (training + sum(_UNIT_SECONDS * _units(job.recipe) for job in runs)) / 60


def asking_minutes(probes: Sequence[str], runs: Mapping[int, Runs], out: Path) -> float:
    """The estimated minutes of one core for what probes have not answered yet.

    Args:
        probes: Their names.
        runs: By draw and arm.
        out: The folder of everything.
    """
    asked = [visit for draw, arms in runs.items() for visit in visits(probes, draw, arms, out)]
    return sum(PROBES[visit.probe].seconds for visit in asked if not visit.is_kept) / 60


def _units(recipe: Recipe) -> int:
    """Matrices of all checkpoints; none where the model's shape is not in the recipe."""
    source = recipe.start
    while source.recipe is not None:
        source = source.recipe.start
    layers = 0 if source.config is None else source.config.num_hidden_layers
    return _MATRICES_OF_A_LAYER * layers * (len(planned_steps(recipe)) - 1)
