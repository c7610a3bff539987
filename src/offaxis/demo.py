"""The main job: train every arm of the tiny laboratory, measure the runs, write the page.

    base ──▶ anchor ──▶ sft x3, rlvr x3, rlvr-random x3, rlvr-long
         └─▶ sft-base x3           teacher ──▶ opd x3 (with the anchor)
    then runs under a changed condition, beside the one whose update or checkpoint they start from

What is finished stays finished: after an interruption the same command goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from offaxis.catalog import suggestion
from offaxis.console import messages
from offaxis.controls import ALL, FEW, Group, described
from offaxis.errors import UsageError
from offaxis.recipe import Recipe, load_recipe, overriding, recipes_folder, rewritten
from offaxis.runs import RunFolder
from offaxis.training.folders import run_folder
from offaxis.training.jobs import Job, jobs_of
from offaxis.training.plan import Stage
from offaxis.training.pool import train_all
from offaxis.workers import num_cores

# Each arm and whether it is repeated with every training seed.
ARMS = {
    "sft-base": True,
    "sft": True,
    "opd": True,
    "rlvr": True,
    "rlvr-random": True,
    "rlvr-long": False,
}

_NOTES = (
    "All runs share one base, one teacher and one anchor; a training seed changes the order of the "
    "data and the rollouts only. Spread between seeds is not spread between anchors.",
    "sft-base starts from the base and stops at the anchor's accuracy; every other arm starts from "
    "the anchor, at one learning rate and with equal sequences a step.",
)

# Percentage points of accuracy: two standard errors at 1024 problems.
_MATCHED_POINTS = 3.0


@dataclass(frozen=True)
class Preset:
    """A size of the demo.

    Attributes:
        title: The page's title.
        seeds: The training seeds.
        changes: Overrides for every recipe of an arm's name ("*": for all), prerequisites included.
        notes: What the page has to say about the preset.
        controls: The runs under changed conditions, one seed each.
    """

    title: str
    seeds: tuple[int, ...]
    changes: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    controls: tuple[Group, ...] = ()


_SMALL = (
    "start.config.hidden_size=64",
    "start.config.intermediate_size=192",
    "start.config.num_attention_heads=2",
    "start.config.num_key_value_heads=1",
)

_ONE_SEED = "Runs under changed conditions have one seed each: read no small difference from them."

PRESETS = {
    "default": Preset("The tiny laboratory", (0, 1, 2), {}, (_ONE_SEED,), FEW),
    "study": Preset("The tiny laboratory, with controls", (0, 1, 2), {}, (_ONE_SEED,), ALL),
    "smoke": Preset(
        "The tiny laboratory, smoke test",
        (0,),
        {
            "*": (
                "steps.max=24",
                "steps.check_every=12",
                "checkpoints.count=6",
                "evaluation.problems=128",
                "evaluation.samples=64",
            ),
            "base": (*_SMALL, "steps.max=40", "checkpoints.count=2"),
            "teacher": (*_SMALL, "steps.max=40", "checkpoints.count=2"),
            "anchor": ("checkpoints.count=2",),
            "rlvr-long": ("steps.max=36",),
        },
        (
            "Smoke preset: a smaller model, far too few steps to learn the task, and an eighth of "
            "the problems. The page shows that everything works, not what training does.",
        ),
        FEW[:1],
    ),
}


def demo(
    out: Path,
    preset: str = "default",
    *,
    workers: int | None = None,
    dry_run: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train, measure and report.

    Args:
        out: The folder of models, runs, results and the page.
        preset: A key of `PRESETS`.
        workers: Runs trained at a time, one thread each; as many as there are cores by default.
        dry_run: Print the plan and stop.
        console: Where the plan and the progress go; standard error by default.

    Returns:
        Where the page, the results and the runs are; for a dry run the stages of the plan.

    Raises:
        UsageError: If there is no such preset.
        OffaxisError: As training, measurement and report.
    """
    console = console or messages()
    chosen = _chosen(preset)
    recipes = demo_recipes(chosen)
    workers = num_cores() if workers is None else workers
    jobs = jobs_of(recipes, out)
    print_plan(jobs, workers, console)
    if dry_run:
        return {"preset": preset, "stages": [job.stage._asdict() for job in jobs.values()]}
    train_all(jobs, out, workers, console)
    # Imported late: a plan or a broken recipe needs neither.
    from offaxis.measurement import measure_runs
    from offaxis.report import write_report

    folders = [run_folder(recipe, out).root for recipe in recipes]
    notes = [*_NOTES, *length_note(folders), *chosen.notes]
    study: dict[str, Any] = {"preset": preset, "title": chosen.title, "notes": notes}
    study |= described(chosen.controls)
    results = out / "results"
    measure_runs(folders, results, study=study, workers=workers, console=console)
    page = write_report(results, out / "report.html")
    return {
        "report": str(page),
        "results": str(results),
        "runs": [str(folder) for folder in folders],
    }


def length_note(folders: Sequence[Path]) -> list[str]:
    """Where the long RLVR run and OPD ended, for the reader of what is read at equal accuracy."""
    manifests = [RunFolder(folder).manifest() or {} for folder in folders]
    ends = {
        arm: sorted(100 * m["accuracy_final"] for m in manifests if m.get("arm") == arm)
        for arm in ("rlvr-long", "opd")
    }
    steps = [m["steps"][-1] for m in manifests if m.get("arm") == "rlvr-long"]
    if len(ends["rlvr-long"]) != 1 or not ends["opd"]:
        return []
    [reached], opd = ends["rlvr-long"], ends["opd"]
    seeds = (
        f"OPD's seeds end at {opd[0]:.1f} to {opd[-1]:.1f} %"
        if len(opd) > 1
        else f"OPD ends at {opd[0]:.1f} %"
    )
    note = f"RLVR was trained on for {steps[0]} steps, to an accuracy of {reached:.1f} %; {seeds}."
    if reached < fmean(opd) - _MATCHED_POINTS:
        note += " That is below OPD's end: what is read at matched accuracy is read below it."
    return [note]


def demo_recipes(preset: Preset) -> list[Recipe]:
    """The recipes of every run of a preset, arm by arm, then the controls."""
    folder = recipes_folder() / "tiny"
    arms = [
        load_recipe(folder / f"{arm}.toml", [f"seed={seed}"])
        for arm, is_repeated in ARMS.items()
        for seed in (preset.seeds if is_repeated else preset.seeds[:1])
    ]
    changed = [
        load_recipe(folder / "controls" / f"{arm}.toml")
        for group in preset.controls
        for arm in group.labels
    ]
    resize = overriding(preset.changes)
    return [
        rewritten(recipe, resize, f"preset {preset.title}, {recipe.arm}")
        for recipe in (*arms, *changed)
    ]


def print_plan(jobs: dict[str, Job], workers: int, console: Console) -> None:
    """Say what will be trained, for how long, and what it takes on disk."""
    table = Table(title="Plan: train, then measure, then write the page", title_justify="left")
    for heading in ("model", "steps", "MB", "core-seconds", ""):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    stages: list[Stage] = [job.stage for job in jobs.values()]
    for stage in stages:
        state = "kept" if stage.is_finished else ""
        size = f"{stage.checkpoint_bytes / 1e6:.0f}"
        table.add_row(stage.name, str(stage.steps), size, f"{stage.seconds:.0f}", state)
    console.print(table)
    left = sum(stage.seconds for stage in stages if not stage.is_finished)
    disk = sum(stage.checkpoint_bytes for stage in stages)
    console.print(
        f"About {left / workers / 60:.1f} minutes of training with {workers} worker(s), "
        f"{disk / 1e6:.0f} MB on disk; steps are upper bounds where a run stops on accuracy."
    )


def _chosen(preset: str) -> Preset:
    if preset not in PRESETS:
        raise UsageError(
            "--preset",
            expected=f"one of {', '.join(PRESETS)}",
            found=repr(preset),
            do=suggestion(preset, PRESETS),
        )
    return PRESETS[preset]
