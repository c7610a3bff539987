"""What a recipe costs, told before its files are here, and where models of the hub come in."""

import json
from pathlib import Path

import pytest
import torch
from tests.hub_mirror import mirrored
from transformers import get_scheduler

from offaxis.cli import run
from offaxis.errors import RecipeError
from offaxis.recipe import load_recipe, recipe_from
from offaxis.training import plan, train
from offaxis.training.arguments import trainer_arguments
from offaxis.training.cost import PEAK_FLOPS, SAMPLING_SHARE, TRAINING_SHARE

RECIPES = Path(__file__).parents[2] / "recipes"
LARGE = sorted(path for scale in ("gpu", "paper") for path in (RECIPES / scale).rglob("*.toml"))


@pytest.mark.parametrize("path", LARGE, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_large_recipe_is_costed_without_its_files(path, tmp_path):
    stages = plan(load_recipe(path), tmp_path)
    assert all(stage.work is not None and stage.work.gpu_hours > 0 for stage in stages)
    assert all(stage.checkpoint_bytes > 0 and stage.tokens > 0 for stage in stages)


def test_the_hours_of_opd_are_those_of_the_formula(tmp_path):
    student, teacher = 8_190_735_360, 32_762_123_264
    stage = plan(load_recipe(RECIPES / "paper" / "opd.toml"), tmp_path)[-1]
    width = 2048 + 16384
    tokens = 300 * 64 * width
    judged = 4 * width * (30 * 9 + 64)  # at steps 0, 64, 192 and 300
    assert stage.tokens == tokens
    assert stage.work.learning == 8 * student * tokens
    assert stage.work.reading == 2 * teacher * tokens
    assert stage.work.sampling == 2 * student * (tokens + judged)
    busy = (stage.work.learning + stage.work.reading) / TRAINING_SHARE
    seconds = (busy + stage.work.sampling / SAMPLING_SHARE) / PEAK_FLOPS
    assert stage.work.gpu_hours == pytest.approx(seconds / 3600, rel=1e-3)
    assert stage.checkpoint_bytes == 6 * 4 * student


def test_a_mixture_of_experts_reads_with_its_active_parameters(tmp_path):
    dense, sparse = (
        plan(load_recipe(RECIPES / "paper" / path), tmp_path)[-1].work.reading
        for path in ("opd.toml", "variants/opd-moe-teacher.toml")
    )
    assert sparse / dense == pytest.approx(3_341_236_224 / 32_762_123_264)


def test_a_teacher_behind_a_server_takes_no_memory_here(tmp_path):
    recipe = load_recipe(RECIPES / "paper" / "opd.toml")
    alone = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"model": "x"})})
    unknown = recipe.teacher.model_copy(update={"parameters": None})
    bare = recipe.model_copy(update={"teacher": unknown})
    assert plan(alone, tmp_path)[-1].peak_bytes == plan(bare, tmp_path)[-1].peak_bytes


def test_a_dry_run_says_what_is_not_here_and_a_run_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = str(RECIPES / "paper" / "opd.toml")
    assert run(["train", recipe, "--dry-run", "--json", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    stages = json.loads(said.out)["stages"]
    assert [stage["steps"] for stage in stages] == [5376, 300]
    assert stages[1]["absent"][0].endswith("dapo-math-17k.parquet")
    assert "GPU-hours" in said.err
    assert "not here yet: " in said.err
    assert any("dolci-think-sft-7b" in path for stage in stages for path in stage["absent"])
    assert run(["train", recipe, "--out", str(tmp_path / "out")]) == 2
    assert "dolci-think-sft-7b" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_start_that_is_missing_is_refused_before_its_teacher_is_trained(tmp_path, capsys):
    recipe, out = str(RECIPES / "tiny" / "opd.toml"), tmp_path / "out"
    missing = f'start={{path="{tmp_path / "nowhere"}"}}'
    assert run(["train", recipe, "--set", missing, "--out", str(out)]) == 3
    assert "nowhere" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("final", [0.0, 2e-4])
def test_the_cosine_ends_where_the_recipe_says(base, final, tmp_path):
    recipe = base(optimizer={"lr": 1e-3, "schedule": "cosine", "final_lr": final}, steps={"max": 9})
    told = trainer_arguments(recipe, str(tmp_path))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.optimizer.lr)
    scheduler = get_scheduler(
        told.lr_scheduler_type, optimizer, 0, 9, scheduler_specific_kwargs=told.lr_scheduler_kwargs
    )
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(final, abs=1e-12)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"hub": "org/name", "parameters": 5}, "org/name@revision"),
        ({"hub": "org/name@main"}, "parameters"),
        ({"hub": "org/name@main", "parameters": 5, "path": "x"}, "exactly one"),
    ],
)
def test_a_model_of_the_hub_is_named_in_full(base, start, said):
    content = base().resolved() | {"start": start}
    with pytest.raises(RecipeError, match=said):
        recipe_from(content, "here")


def test_a_run_starts_from_a_model_of_the_hub(base, tmp_path, monkeypatch):
    served = train(base(), tmp_path / "theirs")
    folder = served.checkpoint(served.steps()[-1])
    content = base(name="from-hub").resolved()
    content["start"] = {"hub": "org/base@main", "parameters": 5}
    with mirrored(monkeypatch, tmp_path / "cache") as mirror:
        mirror.add("org/base", folder)
        run_folder = train(recipe_from(content, "here"), tmp_path / "ours")
        assert not [name for name in mirror.fetched() if not name.endswith((".json", "tensors"))]
    same = (folder / "model.safetensors").read_bytes()
    assert (run_folder.checkpoint(0) / "model.safetensors").read_bytes() == same
    assert run_folder.manifest()["start"]["hub"] == "org/base@main"
