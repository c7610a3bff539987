"""A study: arms and draws, trained, measured draw by draw, and gathered into one table.

    OUT/models/<arm>-<hash>/   everything trained, by the hash of its recipe, for all entries
    OUT/results/draw-0/        the measured runs of one draw
    OUT/probes/draw-0/         what probes found in them
    OUT/study.parquet          what `extract` reads off both

Everything finished is kept and reused; after an interruption the same command goes on from there.
The table holds every run in the folder that today's recipes would make, whoever asked for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.errors import UsageError
from offaxis.files import atomically
from offaxis.measurement import Options, Pass, measure
from offaxis.measurement.study import IN_BF16
from offaxis.recipe import Recipe
from offaxis.reproduction.arms import Changes, Scale, arms_of, drawn
from offaxis.reproduction.entries import Entry
from offaxis.reproduction.extract import STUDY, RunFacts, study_table
from offaxis.reproduction.measured import unmeasured
from offaxis.reproduction.probes import PROBES
from offaxis.reproduction.probing import Visit, visit_all, visits
from offaxis.runs import RunFolder
from offaxis.table import ResultsFolder
from offaxis.training import model_folder
from offaxis.training.jobs import Job, jobs_of
from offaxis.training.pool import Failures, train_all

IN_BF16_TOO = (*IN_BF16, "similarity")
"""What is read as bf16 files would show it, as well."""

_NULL_DRAWS = 2  # the table averages over matrices and draws

Recipes = dict[int, dict[str, Recipe]]
"""By draw and arm."""


@dataclass(frozen=True)
class Study:
    """What is asked for.

    Attributes:
        scale: Which recipes.
        draws: How many of each arm.
        diagnostics: What is measured of every run.
        probes: What is asked of them beside that.
        changes: Overrides by arm.
        missing: Arms that were asked for and have no recipe at this scale.
    """

    scale: Scale
    draws: Mapping[str, int]
    diagnostics: tuple[str, ...]
    probes: tuple[str, ...] = ()
    changes: Changes = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def recipes(self) -> Recipes:
        """The recipes of every draw."""
        most = max(self.draws.values(), default=0)
        return {
            draw: {
                arm: drawn(arm, draw, self.scale, self.changes)
                for arm, count in self.draws.items()
                if draw < count
            }
            for draw in range(most)
        }


def study_of(
    entries: Sequence[Entry],
    scale: Scale,
    *,
    quick: bool = False,
    headline_only: bool = False,
    changes: Changes | None = None,
) -> Study:
    """What some entries need together; an arm that several ask for is drawn as often as the most.

    Raises:
        UsageError: If nothing is trained for any of them at this scale.
    """
    wanted: dict[str, int] = {}
    for entry in entries:
        for arm, count in entry.draws(quick=quick, headline_only=headline_only).items():
            wanted[arm] = max(count, wanted.get(arm, 0))
    known = arms_of(scale)
    draws = {arm: count for arm, count in wanted.items() if arm in known}
    if not draws:
        raise UsageError(
            f"reproduce {' '.join(entry.id for entry in entries)} --scale {scale}",
            expected="an entry that is trained for at this scale",
            found="tables of settings alone" if not wanted else "no recipe for any of its arms",
            do="see `offaxis reproduce list`",
        )
    diagnostics = tuple(dict.fromkeys(name for entry in entries for name in entry.diagnostics))
    missing = tuple(arm for arm in wanted if arm not in known)
    probes = tuple(dict.fromkeys(name for entry in entries for name in entry.probes))
    return Study(scale, draws, diagnostics, probes, changes or {}, missing)


def study_jobs(recipes: Recipes, out: Path) -> dict[str, Job]:
    """What there is to train for the recipes of a study, by the names of their folders."""
    return jobs_of([r for of_draw in recipes.values() for r in of_draw.values()], out, named=False)


def run_study(
    study: Study, out: Path, workers: int, console: Console
) -> tuple[Failures, list[str]]:
    """Train what is missing, measure every draw, and ask the probes.

    Returns:
        The runs that failed, with their errors, and what a reader has to know of the others.

    Raises:
        OffaxisError: As training and measurement, but for what one run alone did wrong.
    """
    recipes, failures = study.recipes(), Failures()
    jobs = study_jobs(recipes, out)
    train_all(jobs, out, workers, console, failures)
    asked: list[Visit] = []
    for draw, arms in recipes.items():
        folders = {arm: model_folder(recipe, out) for arm, recipe in arms.items()}
        finished = {arm: run for arm, run in folders.items() if run.root.name not in failures}
        if not finished:
            continue
        asked += visits(study.probes, draw, finished, out)
        results = results_of(draw, out)
        options = Options(passes=_passes(study.diagnostics), draws=_NULL_DRAWS)
        left = unmeasured(results, list(finished.values()), options)
        console.print(f"draw {draw}: {len(finished)} runs, of which {len(left)} are to be measured")
        if left:
            measure(
                find_trajectories([run.root for run in left]),
                results.root,
                options,
                workers=workers,
                study={"title": f"draw {draw}", "draw": draw, "scale": study.scale},
                console=console,
            )
    visit_all(asked, workers, console, failures)
    return failures, short_of_their_mark(jobs, out)


def gather(out: Path, scale: Scale, changes: Changes | None = None) -> pa.Table:
    """The study table of a folder, written to `OUT/study.parquet` too.

    Raises:
        ResultsError: If a results folder is damaged, or the file cannot be written.
    """
    parts = [_table_of(draw, out, scale, changes) for draw in measured_draws(out)]
    table = pa.concat_tables([STUDY.empty_table(), *parts])
    with atomically(out / "study.parquet") as path:
        pq.write_table(table, path, compression="zstd")
    return table


def measured_draws(out: Path) -> list[int]:
    """The draws that have a results folder, ascending."""
    return sorted(int(path.name.partition("-")[2]) for path in out.glob("results/draw-*"))


def measured_runs(draw: int, out: Path) -> set[str]:
    """The names of the runs that the results of a draw hold; none where there are none.

    Raises:
        ResultsError: If the results folder is damaged.
    """
    results = results_of(draw, out)
    if not results.manifest_path.exists():
        return set()
    return {run["name"] for run in results.manifest()["runs"]}


def results_of(draw: int, out: Path) -> ResultsFolder:
    """Where a draw is measured."""
    return ResultsFolder(out / "results" / f"draw-{draw}")


def _table_of(draw: int, out: Path, scale: Scale, changes: Changes | None) -> pa.Table:
    """The rows of one draw."""
    results, runs = results_of(draw, out), held_runs(draw, out, scale, changes)
    names = list(runs)
    table = study_table(
        draw,
        runs,
        readings=results.read("readings", names),
        training=results.read("training", names),
    )
    folders = {facts.arm: RunFolder(out / "models" / name) for name, facts in runs.items()}
    answers = [visit.answer() for visit in visits(PROBES, draw, folders, out) if visit.is_kept]
    return pa.concat_tables([table, *answers])


def held_runs(
    draw: int, out: Path, scale: Scale, changes: Changes | None = None
) -> dict[str, RunFacts]:
    """Of every arm in the folder of a draw, the run of today's recipe, by name.

    Raises:
        ResultsError: If the results folder is damaged.
    """
    results = results_of(draw, out)
    held = {run["name"]: run.get("arm") for run in results.manifest()["runs"]}
    runs: dict[str, RunFacts] = {}
    for arm in sorted(set(held.values()) & arms_of(scale).keys()):
        recipe = drawn(arm, draw, scale, changes)
        name = model_folder(recipe, out).root.name
        if name in held:
            source = recipe.subspace.of if recipe.subspace is not None else None
            free = source.recipe.arm if source is not None and source.recipe is not None else ""
            runs[name] = RunFacts(arm, free)
    return runs


def _passes(diagnostics: tuple[str, ...]) -> tuple[Pass, ...]:
    in_bf16 = tuple(name for name in diagnostics if name in IN_BF16_TOO)
    return (Pass("stored", diagnostics), *([Pass("bf16", in_bf16)] if in_bf16 else []))


def short_of_their_mark(jobs: Mapping[str, Job], out: Path) -> list[str]:
    """Of the models that runs build on, those that ran out of steps before their accuracy."""
    notes = []
    needed = {need for job in jobs.values() for need in job.needs}
    for name in sorted(needed):
        steps = jobs[name].recipe.steps
        manifest = RunFolder(out / "models" / name).manifest() or {}
        reached, mark = manifest.get("accuracy_final"), steps.stop_at_accuracy
        if mark and reached is not None and reached < mark:
            notes.append(
                f"{name} ended after its {steps.max} steps with an accuracy of {reached:.3f}, "
                f"meant to stop at {mark}: what is built on it starts elsewhere"
            )
    return notes
