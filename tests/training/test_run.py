"""From a recipe to a run folder, end to end: what is left behind, what is kept, what is refused."""

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from offaxis.errors import CheckpointError, NumericsError, OffaxisError, RecipeError, ResultsError
from offaxis.recipe import load_recipe, recipe_hash, recipe_text
from offaxis.runs import RunFolder
from offaxis.training import (
    arguments,
    model_folder,
    recorder,
    run_folder,
    train,
    train_command,
    train_model,
    trainer,
)

KINDS = ("sft", "opd", "grpo")


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its log, which holds times."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "log.jsonl"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module", params=KINDS)
def finished(request, arm, tmp_path_factory):
    """One finished run of every kind, and its recipe."""
    recipe, out = arm(request.param), tmp_path_factory.mktemp(request.param)
    return recipe, train(recipe, out), out


def test_a_run_leaves_what_the_contract_promises(finished):
    recipe, folder, out = finished
    assert folder.root == out / "runs" / f"{recipe.arm}-s0"
    manifest = folder.manifest()
    assert manifest["finished"] is True
    assert manifest["steps"] == folder.steps() == [0, 2, 3]
    assert manifest["anchor"] == "checkpoint-0"
    assert manifest["recipe_hash"] == recipe_hash(recipe)
    assert manifest["recipe"] == recipe.resolved()
    assert manifest["start"] == {"name": "base", "recipe_hash": recipe_hash(recipe.start.recipe)}
    assert (manifest["teacher"] is not None) is (recipe.arm == "opd")
    assert manifest["precision"] == {
        "weights": "float32",
        "autocast": "bfloat16",
        "checkpoints": "float32",
        "device": "cpu",
    }
    assert {"python", "torch", "transformers", "offaxis"} <= set(manifest["versions"])
    assert load_recipe(folder.recipe_path) == recipe
    left = {p.name for p in folder.root.iterdir()}
    assert left == {"manifest.json", "recipe.toml", "log.jsonl"} | {
        f"checkpoint-{step}" for step in folder.steps()
    }


def test_the_log_says_what_happened_in_every_step(finished):
    recipe, folder, _ = finished
    log = folder.log()
    assert [line["step"] for line in log] == [0, 1, 2, 3]
    promised = {"loss", "entropy_nats", "tokens", "rollout_seconds", "training_seconds"}
    if recipe.data.prompts:
        promised |= {"reward", "response_length"}
    assert all(promised <= set(line) for line in log[1:])
    judged = [line["step"] for line in log if "accuracy" in line]
    assert judged == [0, 3]
    assert log[0]["forward_kl_nats"] == 0
    assert log[-1]["forward_kl_nats"] > 0
    assert folder.manifest()["accuracy_final"] == log[-1]["accuracy"]


def test_checkpoints_open_in_transformers_and_hold_float32(finished):
    _, folder, _ = finished
    for step in folder.steps():
        path = folder.checkpoint(step)
        assert all(w.dtype == torch.float32 for w in weights(path).values())
        tokenizer = AutoTokenizer.from_pretrained(path)
        assert tokenizer.decode(tokenizer("Qc+0;=#6$")["input_ids"]) == "Qc+0;=#6$"
        assert tokenizer.eos_token == "$"
        assert len(tokenizer) == 32
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.config.model_type == "qwen3"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_checkpoint_zero_is_the_start_and_the_last_one_has_moved(finished):
    recipe, folder, out = finished
    base = model_folder(recipe.start.recipe, out)
    start, last = weights(base.checkpoint(3)), weights(folder.checkpoint(3))
    first = weights(folder.checkpoint(0))
    assert set(start) == set(first)
    assert all(torch.equal(start[name], first[name]) for name in start)
    assert all(not torch.equal(start[name], last[name]) for name in start)


def test_the_same_recipe_gives_the_same_bytes(finished, tmp_path_factory):
    recipe, folder, _ = finished
    torch.manual_seed(12345)  # whatever else the process drew
    again = train(recipe, tmp_path_factory.mktemp("again"))
    assert files(again.root) == files(folder.root)


def test_a_start_that_was_judged_on_these_problems_is_not_judged_again(arm, tmp_path, monkeypatch):
    judged = []

    def judge(*given):
        judged.append(given[-1])
        return own(*given)

    own = recorder.judge
    monkeypatch.setattr(recorder, "judge", judge)
    sampled = {"problems": 24, "samples": 4, "k": 2}
    first = arm("sft", name="first", evaluation=sampled)
    base = train_model(first.start.recipe, tmp_path)
    assert len(judged) == 2
    same = first.model_copy(update={"evaluation": first.start.recipe.evaluation})
    kept = train(same, tmp_path)
    assert len(judged) == 3  # its end alone
    at_start, _, _ = base.log_path.read_text("ascii").partition("\n")
    base.log_path.write_text(f"{at_start}\n", "ascii")  # what it solved before it learned
    anew = train(same.model_copy(update={"name": "anew"}), tmp_path)
    assert len(judged) == 5
    assert kept.log()[0] == anew.log()[0]
    assert kept.log()[0]["accuracy"] == kept.manifest()["accuracy_start"]
    assert train(first, tmp_path / "other").log()[0].keys() >= {"accuracy", "avg@2", "pass@2_low"}
    assert len(judged) == 9  # other problems than those of its base


def test_another_seed_is_another_run_from_the_same_start(arm, tmp_path):
    zero, one = (train(arm("grpo", seed=seed), tmp_path) for seed in (0, 1))
    assert one.root.name == "grpo-s1"
    assert weights(zero.checkpoint(0)).keys() == weights(one.checkpoint(0)).keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(weights(zero.checkpoint(0))[name], weights(one.checkpoint(0))[name])
    assert not torch.equal(weights(zero.checkpoint(3))[name], weights(one.checkpoint(3))[name])
    assert len(list((tmp_path / "models").glob("base-*"))) == 1


def test_what_is_finished_is_reused_and_a_model_is_trained_once(arm, tmp_path):
    trained = []
    train(arm("sft"), tmp_path, observe=lambda p: trained.append(p.run))
    assert set(trained) == {"base-s0", "sft-s0"}
    trained.clear()
    train(arm("sft"), tmp_path, observe=lambda p: trained.append(p.run))
    assert trained == []
    train(arm("sft", seed=1), tmp_path, observe=lambda p: trained.append(p.run))
    assert set(trained) == {"sft-s1"}


class InterruptedForTestError(Exception):
    """Stands for Ctrl-C."""


def interrupted(progress):
    if progress.step == 2:
        raise InterruptedForTestError


def test_an_interrupted_run_is_not_finished_and_is_done_again_from_its_start(base, tmp_path):
    recipe = base()
    with pytest.raises(InterruptedForTestError):
        train(recipe, tmp_path / "a", observe=interrupted)
    folder = run_folder(recipe, tmp_path / "a")
    assert folder.manifest()["finished"] is False
    assert folder.steps() == [0, 2]
    (folder.root / ".checkpoint-3.1.partial").mkdir()  # what kill -9 may leave
    train(recipe, tmp_path / "a")
    assert files(folder.root) == files(train(recipe, tmp_path / "b").root)


def test_a_run_killed_before_its_first_manifest_is_done_again(base, tmp_path):
    folder = run_folder(base(), tmp_path)
    folder.root.mkdir(parents=True)
    (folder.root / ".manifest.json.1.partial").write_text("{")
    assert train(base(), tmp_path).manifest()["finished"] is True


def test_a_finished_run_that_lost_a_checkpoint_is_done_again(base, tmp_path):
    folder = train(base(), tmp_path)
    whole = files(folder.root)
    folder.checkpoint(2).rename(tmp_path / "elsewhere")
    train(base(), tmp_path)
    assert files(folder.root) == whole


def test_a_name_taken_by_another_recipe_is_refused_and_the_run_is_kept(base, tmp_path):
    folder = train(base(), tmp_path)
    whole = files(folder.root)
    with pytest.raises(RecipeError, match="another recipe"):
        train(base(optimizer={"lr": 1e-3}), tmp_path)
    assert files(folder.root) == whole


def test_a_folder_of_something_else_is_never_touched(base, tmp_path):
    mine = tmp_path / "runs" / "base-s0" / "diary.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("dear")
    with pytest.raises(RecipeError, match="no run of offaxis"):
        train(base(), tmp_path)
    assert mine.read_text() == "dear"


def test_a_run_stops_at_the_first_check_that_reaches_the_accuracy(base, tmp_path, monkeypatch):
    asked = []

    def rising(model, tokenizer, task, *, num_problems, seed):
        asked.append(num_problems)
        return 0.0 if len(asked) < 3 else 0.5

    monkeypatch.setattr(recorder, "accuracy", rising)
    steps = {"max": 10, "stop_at_accuracy": 0.4, "check_every": 2, "check_problems": 8}
    folder = train(base(steps=steps), tmp_path)
    # A quarter at 2 and at 4, too low; at 6 a quarter and the check.
    assert asked == [2, 2, 2, 8]
    assert folder.manifest()["steps"][-1] == folder.steps()[-1] == 6


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(base, tmp_path):
    with pytest.raises(NumericsError, match="run base-s0, step 2") as caught:
        train(base(optimizer={"lr": 1e30}), tmp_path)
    assert caught.value.exit_code == 3
    assert run_folder(base(), tmp_path).manifest()["finished"] is False


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_our_error_and_leaves_no_half_checkpoint(
    base, tmp_path, monkeypatch, failure
):
    def full(self, folder, **_):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
        raise failure

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(ResultsError, match="no space left") as caught:
        train(base(), tmp_path)
    assert caught.value.exit_code == 3
    folder = run_folder(base(), tmp_path)
    assert folder.steps() == []
    assert not [p for p in folder.root.iterdir() if "partial" in p.name]


def test_a_start_that_cannot_be_opened_is_named(arm, tmp_path):
    recipe = arm("sft", start={"recipe": None, "path": str(tmp_path / "nowhere")})
    with pytest.raises(CheckpointError, match="no such folder"):
        train(recipe, tmp_path)
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="nowhere"):
        train(recipe, tmp_path)


def test_a_run_can_start_from_any_folder(arm, base, tmp_path):
    model = train_model(base(), tmp_path).checkpoint(3)
    folder = train(arm("sft", start={"recipe": None, "path": str(model)}), tmp_path)
    assert folder.manifest()["start"] == {"name": "checkpoint-3", "path": str(model)}
    first = weights(folder.checkpoint(0))
    assert all(torch.equal(w, first[name]) for name, w in weights(model).items())


def test_a_teacher_of_another_vocabulary_is_refused(arm, base, tmp_path):
    model = train_model(base(), tmp_path).checkpoint(3)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    teacher = {"recipe": None, "path": str(model)}
    with pytest.raises(RecipeError, match="vocabulary"):
        train(arm("opd", teacher=teacher, start={"recipe": base(seed=4).resolved()}), tmp_path)


def test_splitting_a_step_changes_nothing_but_rounding(arm, tmp_path):
    whole = train(arm("grpo", precision={"autocast": "none"}), tmp_path)
    split = train(
        arm("grpo", name="split", precision={"autocast": "none"}, optimizer={"micro_batches": 2}),
        tmp_path,
    )
    for name, w in weights(whole.checkpoint(3)).items():
        torch.testing.assert_close(weights(split.checkpoint(3))[name], w, rtol=1e-3, atol=1e-4)


def test_the_verb_prints_a_plan_trains_and_says_where(base, tmp_path):
    (tmp_path / "base.toml").write_text(recipe_text(base()))
    console = Console(file=io.StringIO(), width=200)
    planned = train_command(tmp_path / "base.toml", ["seed=3"], tmp_path, dry_run=True)
    assert planned["run"] == "base-s3"
    assert planned["recipe"]["seed"] == 3
    assert not (tmp_path / "runs").exists()
    said = train_command(tmp_path / "base.toml", ["seed=3"], tmp_path, console=console)
    assert said["run"] == str(tmp_path / "runs" / "base-s3")
    assert said["accuracy_final"] == 0
    told = console.file.getvalue()
    assert "base-s3: up to 3 steps" in told
    assert "MB of memory in a step" in told
    assert "base-s3: time of the steps: rollout " in told


@pytest.mark.parametrize("place", ["", "runs", "models"])
def test_a_folder_that_cannot_be_written_is_our_error_before_any_training(arm, tmp_path, place):
    out = tmp_path / "out"
    taken = out / place
    taken.parent.mkdir(exist_ok=True)
    taken.write_text("a file")
    trained = []
    with pytest.raises(ResultsError) as caught:
        train(arm("sft"), out, observe=trained.append)
    assert caught.value.exit_code == 3
    assert caught.value.do
    assert trained == []
    assert taken.read_text() == "a file"


def test_a_folder_no_one_may_write_to_is_our_error(base):
    for out in (Path("/proc/offaxis"), Path("/dev/null")):
        with pytest.raises(ResultsError):
            train(base(), out)


def test_a_file_in_place_of_the_run_is_refused(base, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "base-s0").write_text("dear")
    with pytest.raises(RecipeError, match="a file"):
        train(base(), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"finished": None},
        {"finished": "yes"},
        {"recipe_hash": None},
        {"steps": 3},
        {"accuracy_final": None},
    ],
)
def test_a_manifest_that_is_not_whole_is_refused_and_the_run_is_kept(base, tmp_path, change):
    folder = train(base(), tmp_path)
    manifest = {k: v for k, v in (folder.manifest() | change).items() if v is not None}
    folder.manifest_path.write_text(json.dumps(manifest))
    whole = files(folder.root)
    with pytest.raises(OffaxisError) as caught:
        train(base(), tmp_path)
    assert next(iter(change)) in caught.value.found
    assert files(folder.root) == whole


def test_finished_is_said_last(base, tmp_path, monkeypatch):
    written = []

    def record(self, content):
        written.append((content["finished"], bool(self.log()), self.steps()))
        return write(self, content)

    write = RunFolder.write_manifest
    monkeypatch.setattr(RunFolder, "write_manifest", record)
    train(base(), tmp_path)
    assert written == [(False, False, []), (True, True, [0, 2, 3])]


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_weights_that_broke_are_a_foreseen_end_and_never_a_finished_run(arm, tmp_path, kind):
    recipe = arm(kind, optimizer={"lr": 1e30}, seed=1)
    with pytest.raises(NumericsError, match=f"run {kind}-s1") as caught:
        train(recipe, tmp_path)
    folder = run_folder(recipe, tmp_path)
    assert folder.manifest()["finished"] is False
    # What the message says: the checkpoints before it are there until the run is begun again.
    assert "until then" in caught.value.do
    assert 0 in folder.steps()
    for step in folder.steps():
        assert all(w.isfinite().all() for w in weights(folder.checkpoint(step)).values())


def test_a_last_step_that_broke_the_weights_finishes_no_run(base, tmp_path, monkeypatch):
    plain = trainer.StreamTrainer.finish_step

    def breaking(self):
        with torch.no_grad():
            next(self.model.parameters())[0] = float("nan")
        return plain(self)

    monkeypatch.setattr(trainer.StreamTrainer, "finish_step", breaking)
    with pytest.raises(NumericsError, match=r"not finite|= nan"):
        train(base(steps={"max": 1}), tmp_path)
    folder = run_folder(base(), tmp_path)
    assert folder.steps() == [0]
    assert folder.manifest()["finished"] is False


def test_a_start_that_is_not_finite_is_refused(arm, base, tmp_path):
    model = train_model(base(), tmp_path).checkpoint(3)
    held = weights(model)
    held["model.norm.weight"][0] = float("nan")
    save_file(held, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        train(arm("sft", start={"recipe": None, "path": str(model)}), tmp_path)


def test_a_start_that_ends_texts_otherwise_than_the_task_is_refused(arm, base, tmp_path):
    model = train_model(base(), tmp_path).checkpoint(3)
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        content = json.loads((model / name).read_text())
        content |= {"eos_token": "j"} if "tokenizer" in name else {"eos_token_id": [30, 31]}
        (model / name).write_text(json.dumps(content))
    recipe = arm("grpo", start={"recipe": None, "path": str(model)})
    with pytest.raises(RecipeError, match="ends its texts"):
        train(recipe, tmp_path)
    content = json.loads((model / "generation_config.json").read_text())
    end = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("$")
    content["eos_token_id"] = [30, end]
    (model / "generation_config.json").write_text(json.dumps(content))
    assert train(recipe, tmp_path).manifest()["finished"] is True


def test_more_micro_batches_than_packed_rows_train_the_same(base, tmp_path):
    data = {"mixture": {"facts": 4, "copy": 1, "answers": 1}}
    changes = {"data": data, "precision": {"autocast": "none"}}
    whole = train(base(**changes), tmp_path)
    split = train(base(name="split", optimizer={"micro_batches": 6}, **changes), tmp_path)
    for name, w in weights(whole.checkpoint(3)).items():
        torch.testing.assert_close(weights(split.checkpoint(3))[name], w, rtol=1e-3, atol=1e-4)


def test_the_device_is_the_recipes_choice_and_written_down(base, tmp_path, monkeypatch):
    asked = []
    plain = arguments.TrainingArguments

    def spy(**settings):
        asked.append(settings["use_cpu"])
        return plain(**settings | {"use_cpu": True})

    monkeypatch.setattr(arguments, "TrainingArguments", spy)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert train(base(), tmp_path).manifest()["precision"]["device"] == "cpu"
    train(base(name="auto", precision={"device": "auto"}), tmp_path)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    train(base(name="none", precision={"device": "auto"}), tmp_path)
    assert asked == [True, False, True]


@pytest.mark.parametrize("package", ["transformers", "accelerate"])
@pytest.mark.parametrize("verb", ["demo", "train"])
def test_without_the_extra_the_message_says_what_to_install(base, tmp_path, verb, package):
    (tmp_path / "base.toml").write_text(recipe_text(base()))
    arguments = {"demo": ["demo", "--dry-run"], "train": ["train", "base.toml", "--dry-run"]}[verb]
    code = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        f"from offaxis.cli import run\nsys.exit(run({arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"no {package}" in done.stderr
    assert "pip install 'offaxis[train]'" in done.stderr
