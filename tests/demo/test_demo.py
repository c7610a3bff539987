"""The demo: what it would train and in which order, and that workers train, fail and keep."""

import io
import json
import multiprocessing

import pytest
from rich.console import Console

from offaxis.demo import ARMS, PRESETS, demo, demo_recipes, length_note
from offaxis.errors import NumericsError, ResultsError, UsageError
from offaxis.recipe import recipe_from
from offaxis.runs import RunFolder
from offaxis.training.jobs import jobs_of
from offaxis.training.pool import train_all

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def tiny(arm: str, **changes):
    content = {
        "arm": arm,
        "start": {"config": TINY},
        "objective": {"kind": "sft"},
        "data": {"task": "chain13", "mixture": {"facts": 4}},
        "optimizer": {"lr": 1e-2},
        "steps": {"max": 3},
        "checkpoints": {"count": 2},
        "evaluation": {"problems": 8, "samples": 4},
    }
    return recipe_from(content | changes, "test")


def quiet():
    return Console(file=io.StringIO(), width=200)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_every_arm_from_shared_models(preset, tmp_path):
    recipes = demo_recipes(PRESETS[preset])
    changed = {arm for group in PRESETS[preset].controls for arm in group.labels}
    assert {recipe.arm for recipe in recipes} == set(ARMS) | changed
    assert changed
    problems = 128 if preset == "smoke" else 1024
    assert {recipe.evaluation.problems for recipe in recipes} == {problems}
    jobs = jobs_of(recipes, tmp_path)
    prerequisites = [name for name, job in jobs.items() if not job.is_run]
    assert sorted(name.split("-")[0] for name in prerequisites) == ["anchor", "base", "teacher"]
    assert set(prerequisites) <= {need for job in jobs.values() for need in job.needs}
    for job in jobs.values():
        if job.recipe.arm == "opd":
            assert [need.split("-")[0] for need in job.needs] == ["anchor", "teacher"]
    # What a control is taken from is the run that is shown beside it, not a second one.
    of_random = jobs["opd-k16-random-s500"].needs
    assert {"opd-s0", "opd-k16-early-s500"} <= set(of_random)


def test_the_default_has_three_seeds_and_smoke_is_smaller(tmp_path):
    default, smoke = (demo_recipes(PRESETS[preset]) for preset in ("default", "smoke"))
    assert sum(recipe.arm == "opd" for recipe in default) == 3
    assert sum(recipe.arm == "rlvr-long" for recipe in default) == 1
    seconds = [
        sum(job.stage.seconds for job in jobs_of(recipes, tmp_path).values())
        for recipes in (default, smoke)
    ]
    assert seconds[1] < seconds[0] / 4
    base = smoke[0].start.recipe
    assert base.start.config.hidden_size == 64


def test_a_dry_run_prints_the_plan_and_leaves_nothing(tmp_path):
    console = quiet()
    said = demo(tmp_path / "out", "smoke", dry_run=True, console=console)
    assert json.dumps(said)
    assert len(said["stages"]) == 11
    text = console.file.getvalue()
    assert "opd-s0" in text
    assert "MB on disk" in text
    assert not (tmp_path / "out").exists()


def test_an_unknown_preset_is_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean smoke"):
        demo(tmp_path, "smoked")


def test_workers_train_in_order_fail_with_our_error_and_keep_what_is_finished(tmp_path):
    base = tiny("base")
    good = tiny("good", start={"recipe": base.resolved()})
    bad = tiny("bad", start={"recipe": base.resolved()}, optimizer={"lr": 1e30, "warmup_steps": 0})
    with pytest.raises(NumericsError, match="run bad-s0"):
        train_all(jobs_of([good, bad], tmp_path), tmp_path, 1, quiet())
    # Both wait for the base, which is kept; with one worker the other run may or may not be done.
    jobs = jobs_of([good], tmp_path)
    assert [job.stage.is_finished for job in jobs.values() if not job.is_run] == [True]
    assert RunFolder(tmp_path / "runs" / "bad-s0").manifest()["finished"] is False
    assert multiprocessing.active_children() == []


def test_noted_failures_end_their_own_runs_alone(tmp_path):
    bad = tiny("bad", optimizer={"lr": 1e30, "warmup_steps": 0})
    after = tiny("after", start={"recipe": bad.resolved()})
    good = tiny("good")
    jobs, failures = jobs_of([after, good], tmp_path, named=False), {}
    train_all(jobs, tmp_path, 1, quiet(), failures)
    lost = {name.partition("-")[0]: error for name, error in failures.items()}
    assert lost.keys() == {"bad", "after"}
    assert isinstance(lost["after"], NumericsError)
    assert lost["after"] is lost["bad"]
    kept = {
        path.parent.name.partition("-")[0]
        for path in tmp_path.glob("models/*/manifest.json")
        if json.loads(path.read_text())["finished"]
    }
    assert kept == {"good"}
    assert not (tmp_path / "runs" / "good-s0").exists()


def ended(folder, arm, accuracy, step=120):
    folder = folder / f"{arm}-{accuracy}"
    RunFolder(folder).write_manifest(
        {"arm": arm, "steps": [0, step], "accuracy_final": accuracy, "finished": True}
    )
    return folder


def test_the_page_says_where_the_long_run_and_opd_ended(tmp_path):
    opd = [ended(tmp_path, "opd", accuracy) for accuracy in (0.607, 0.585, 0.6)]
    near = ended(tmp_path, "rlvr-long", 0.575, 400)
    assert length_note([*opd, near]) == [
        "RLVR was trained on for 400 steps, to an accuracy of 57.5 %; "
        "OPD's seeds end at 58.5 to 60.7 %."
    ]
    far = ended(tmp_path, "rlvr-long", 0.56, 480)
    [note] = length_note([*opd, far])
    assert note.startswith("RLVR was trained on for 480 steps, to an accuracy of 56.0 %")
    assert note.endswith("below OPD's end: what is read at matched accuracy is read below it.")
    [note] = length_note([opd[0], far])
    assert "; OPD ends at 60.7 %." in note
    assert length_note(opd) == length_note([far]) == []


def test_an_output_that_cannot_be_written_is_our_error_before_any_worker(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ResultsError):
        demo(tmp_path / "taken", "smoke", workers=1, console=quiet())
    assert multiprocessing.active_children() == []
