"""Interrupted anywhere, the same command goes on bit for bit; what breaks a run leaves a state."""

import copy
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from offaxis.cli import run as command_line
from offaxis.errors import Interrupted, NumericsError, OffaxisError, RecipeError, ResultsError
from offaxis.recipe import recipe_from, recipe_text
from offaxis.runs import RunFolder
from offaxis.training import recorder, run_folder, train, trainer
from offaxis.training import run as runs
from offaxis.training.folders import is_finished
from offaxis.training.resume import States
from offaxis.training.schedule import planned_steps
from offaxis.training.sources import Documents
from offaxis.training.trainer import StreamTrainer

KINDS = ("sft", "opd", "grpo")
STEPS = 6


def content(run: RunFolder) -> dict[str, object]:
    """Every file of a run, and its log without what a clock says."""
    paths = [p for p in sorted(run.root.rglob("*")) if p.is_file() and p.name != "log.jsonl"]
    log = [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in run.log()]
    return {"log": log} | {str(p.relative_to(run.root)): p.read_bytes() for p in paths}


def long(arm, kind, **changes):
    """A recipe with steps to be interrupted in, with everything a schedule can hold."""
    whole = {
        "steps": {"max": STEPS},
        "optimizer": {"schedule": "cosine", "warmup_steps": 2},
        "checkpoints": {"every": 3, "optimizer_state": True, "resume_every": 1},
    }
    for table, keys in changes.items():
        whole[table] = whole.get(table, {}) | keys
    return arm(kind, **whole)


@pytest.fixture(scope="module", params=KINDS)
def undisturbed(request, arm, tmp_path_factory):
    recipe = long(arm, request.param)
    out = tmp_path_factory.mktemp("undisturbed")
    return recipe, out, content(train(recipe, out))


@pytest.fixture
def place(undisturbed, tmp_path):
    """A folder that has what the run builds on."""
    _, out, _ = undisturbed
    shutil.copytree(out / "models", tmp_path / "models")
    return tmp_path


def state_step(recipe, out: Path) -> int:
    state = States.folder_of(run_folder(recipe, out).root)
    found = [int(p.name.removeprefix("step-")) for p in state.glob("step-*")]
    return max(found, default=0)


def killed(recipe, out: Path, after: int, moment: random.Random) -> None:
    """Train in a process that is killed some time after it left a state of a step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        process = multiprocessing.get_context("fork").Process(target=train, args=(recipe, out))
        process.start()
    while process.is_alive() and state_step(recipe, out) < after:
        time.sleep(0.005)
    time.sleep(moment.random() * 0.2)
    process.kill()
    process.join()


def test_killed_at_any_moment_a_run_continues_bit_for_bit(undisturbed, place):
    recipe, _, expected = undisturbed
    moment = random.Random(recipe.arm)
    for after in sorted(moment.sample(range(STEPS), 3)):
        killed(recipe, place, after, moment)
    # The last process may have been done before it was killed.
    is_done = is_finished(run_folder(recipe, place), recipe)
    left = 0 if is_done else state_step(recipe, place)
    notes = []
    run = train(recipe, place, observe=lambda p: notes.append(p.note))
    assert content(run) == expected
    assert any(f"continues after step {left}" in note for note in notes) == (left > 0)


def test_a_state_that_a_finished_run_has_left_is_removed(undisturbed, place):
    recipe, out, expected = undisturbed
    run = run_folder(recipe, place)
    shutil.copytree(run_folder(recipe, out).root, run.root)
    state = States.folder_of(run.root)
    (state / "step-5").mkdir(parents=True)
    assert content(train(recipe, place)) == expected
    assert not state.exists()


SUBSPACE = {"rank": 2, "basis": "random", "start": "anchor"}

# Every control there is, as changes to the recipe of an arm: each has to survive being killed.
CONTROLS = {
    "sft": {},
    "opd": {},
    "grpo": {},
    "sft, split": {"optimizer": {"micro_batches": 3}},
    "opd, computed twice": {"precision": {"gradient_checkpointing": True}},
    "grpo, judged": {"rewards": {"kind": "verifier"}, "steps": {"check_every": 2}},
    "grpo, stale": {
        "rollouts": {"source": "stale", "lag": 2, "importance": "token", "proximal": "student"}
    },
    "opd, anchor": {
        "rollouts": {"source": "anchor", "importance": "sequence", "proximal": "student"}
    },
    "grpo, reused": {"rollouts": {"reuse": 2}},
    "opd, tokens": {"tokens": {"keep": 0.5, "by": "random"}},
    "opd, mixed": {
        "objective": {"kind": "mixed", "match_norms": True},
        "rewards": {"kind": "random"},
        "optimizer": {"micro_batches": 2},
    },
    "sft, momentum": {"optimizer": {"kind": "sgd"}},
    "sft, core": {"subspace": SUBSPACE | {"form": "core"}},
    "sft, project": {
        "subspace": SUBSPACE | {"form": "project", "sides": "both", "norm_of": "another run"}
    },
    # The basis is made of the first drawing, which two steps share, of weights that are kept.
    "grpo, gradient": {
        "subspace": SUBSPACE | {"form": "right", "basis": "gradient"},
        "rollouts": {"reuse": 2, "source": "stale", "lag": 1},
    },
    "sft, mask": {"mask": {"kind": "random", "density": 0.5}},
    "opd, bfloat16": {"precision": {"weights": "bfloat16", "stochastic_rounding": True}},
}
SHORT = ("grpo, stale", "sft, project", "grpo, gradient", "opd, mixed", "opd, bfloat16")


def controlled(arm, control):
    changes = copy.deepcopy(CONTROLS[control])
    if "norm_of" in changes.get("subspace", {}):
        other = arm("sft", name="other", steps={"max": STEPS})
        changes["subspace"]["norm_of"] = {"recipe": other.resolved()}
    return long(arm, control.partition(",")[0], **changes)


@pytest.mark.parametrize(
    "control",
    [
        pytest.param(control, marks=() if control in SHORT else pytest.mark.trials)
        for control in CONTROLS
    ],
)
def test_stopped_in_its_middle_every_control_continues_bit_for_bit(arm, tmp_path, control):
    recipe = controlled(arm, control)
    expected = content(train(recipe, tmp_path / "undisturbed"))
    shutil.copytree(tmp_path / "undisturbed" / "models", tmp_path / "models")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, observe=stopping(signal.SIGTERM, 3))
    assert state_step(recipe, tmp_path) == 3
    assert content(train(recipe, tmp_path)) == expected


@pytest.mark.trials
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("trial", range(4))
def test_killed_again_and_again_every_control_continues(arm, tmp_path, control, trial):
    recipe = controlled(arm, control)
    expected = content(train(recipe, tmp_path / "undisturbed"))
    moment = random.Random(f"{control}/{trial}")
    for after in sorted(moment.choices(range(STEPS), k=5)):
        killed(recipe, tmp_path, after, moment)
    assert content(train(recipe, tmp_path)) == expected


def stopping(number, at):
    def observe(progress):
        is_model = progress.run in ("base-s0", "teacher-s9", "other")
        if progress.step == at and not is_model and not progress.note:
            os.kill(os.getpid(), number)

    return observe


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_end_and_the_same_command_goes_on(arm, tmp_path, number):
    recipe = long(arm, "sft")
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="the same command continues") as caught:
        train(recipe, tmp_path, observe=stopping(number, 2))
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert state_step(recipe, tmp_path) == 2
    done = []
    run = train(recipe, tmp_path, observe=lambda p: done.append(p.step))
    assert done[-(STEPS - 2) :] == list(range(3, STEPS + 1))
    assert 1 not in done
    assert content(run) == content(train(recipe, tmp_path / "again"))
    assert not States.folder_of(run.root).exists()


def test_the_command_says_how_to_go_on_and_exits_as_shells_expect(
    base, tmp_path, monkeypatch, capsys
):
    recipe = base(checkpoints={"count": 2})
    (tmp_path / "base.toml").write_text(recipe_text(recipe))
    plain = StreamTrainer.finish_step

    def told(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self)

    monkeypatch.setattr(StreamTrainer, "finish_step", told)
    command = ["train", str(tmp_path / "base.toml"), "--out", str(tmp_path)]
    assert command_line(command) == 143
    assert "base-s0 is kept as it was after step 1; the same command" in capsys.readouterr().err
    monkeypatch.undo()
    assert command_line(command) == 0
    assert "base-s0: continues after step 1" in capsys.readouterr().err


def test_a_second_signal_is_not_kept_waiting(base, tmp_path):
    def observe(progress):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="what was finished is kept"):
        train(base(), tmp_path, observe=observe)


def flip(state: Path) -> None:
    with (state / "optimizer.pt").open("r+b") as file:
        file.seek(500)
        byte = file.read(1)
        file.seek(500)
        file.write(bytes([byte[0] ^ 1]))


def truncate(state: Path) -> None:
    os.truncate(state / "model.safetensors", 1000)


def unmark(state: Path) -> None:
    (state / "state.json").unlink()


def lose(state: Path) -> None:
    shutil.rmtree(state.parent.parent / "checkpoint-3")


def empty(state: Path) -> None:
    (state / "state.json").write_text("")


def foreign(state: Path) -> None:
    remark(state, recipe_hash="0" * 64)


def remark(state: Path, **changes) -> None:
    marker = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps(marker | changes))


@pytest.fixture(scope="module")
def stopped(arm, tmp_path_factory):
    """A run that was interrupted after step 4, and what it is when it is not."""
    recipe, out = long(arm, "sft"), tmp_path_factory.mktemp("stopped")
    with pytest.raises(Interrupted):
        train(recipe, out, observe=stopping(signal.SIGTERM, 4))
    return recipe, out, content(train(recipe, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("damage", [flip, truncate, unmark, empty, foreign, lose])
def test_a_state_that_is_torn_or_foreign_is_never_used(stopped, tmp_path, damage):
    recipe, out, expected = stopped
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    damage(States.folder_of(run_folder(recipe, tmp_path).root) / "step-4")
    seen = []
    run = train(recipe, tmp_path, observe=seen.append)
    notes = [p.note for p in seen if p.note]
    (note,) = [note for note in notes if "trainable numbers" not in note]
    assert "step-4 is not continued from" in note
    assert 1 in [p.step for p in seen]
    assert content(run) == expected


def test_a_state_of_other_versions_is_neither_used_nor_lost(stopped, tmp_path):
    recipe, out, _ = stopped
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    state = States.folder_of(run_folder(recipe, tmp_path).root) / "step-4"
    maker = json.loads((state / "state.json").read_text())["made_by"]
    remark(state, made_by=maker | {"torch": "1.0", "processes": 4})
    with pytest.raises(ResultsError, match=r"processes 4, torch 1\.0"):
        train(recipe, tmp_path)
    assert state.is_dir()


def test_which_states_are_written_has_no_influence(arm, stopped, tmp_path):
    recipe, _, expected = stopped
    seldom = long(arm, "sft").model_copy(
        update={"checkpoints": recipe.checkpoints.model_copy(update={"resume_every": 0})}
    )
    found = content(train(seldom, tmp_path))
    for key, held in expected.items():
        assert found[key] == held or key in {"manifest.json", "recipe.toml"}, key


class Forgetful(Documents):
    """Draws by a number that every step changes: without a memory it could not continue."""

    past = 1

    def draw(self, model, step):
        self.__dict__["past"] = (
            5 * self.past + int(1e6 * float(next(model.parameters()).detach()[0, 0]))
        ) % 97
        return super().draw(model, self.past + 1)


class Mindful(Forgetful):
    def state_dict(self):
        return {"past": self.past, "seen": torch.tensor([self.past])}

    def load_state_dict(self, state):
        assert int(state["seen"]) == state["past"]
        self.__dict__["past"] = state["past"]


@pytest.mark.parametrize("source", [Mindful, Forgetful])
def test_a_source_that_remembers_continues_with_what_it_remembered(
    base, tmp_path, monkeypatch, source
):
    monkeypatch.setattr(runs, "Documents", source)
    recipe = base(arm="sft", steps={"max": 6})
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, observe=stopping(signal.SIGTERM, 3))
    continued = content(train(recipe, tmp_path))
    same = continued == content(train(recipe, tmp_path / "again"))
    assert same is (source is Mindful)  # the other shows that the test can fail


class SilentTeacherError(OffaxisError):
    exit_code = 3


def test_a_source_that_fails_leaves_the_last_step_to_go_on_from(arm, tmp_path, monkeypatch):
    recipe = arm("opd", steps={"max": 5})
    expected = content(train(recipe, tmp_path / "undisturbed"))
    plain = runs.Rollouts.draw

    def failing(self, model, step):
        if step == 4:
            raise SilentTeacherError("teacher", expected="an answer", found="none", do="look")
        return plain(self, model, step)

    monkeypatch.setattr(runs.Rollouts, "draw", failing)
    with pytest.raises(SilentTeacherError, match=r"look; the last good weights are in .*step-3"):
        train(recipe, tmp_path)
    assert [line["step"] for line in run_folder(recipe, tmp_path).log()] == [0, 1, 2, 3]
    monkeypatch.undo()
    steps = []
    assert content(train(recipe, tmp_path, observe=lambda p: steps.append(p.step))) == expected
    assert steps[-2:] == [4, 5]


def test_a_loss_that_breaks_leaves_the_weights_before_it(base, tmp_path, monkeypatch):
    recipe = base(steps={"max": 5}, checkpoints={"every": 1})
    whole = train(recipe, tmp_path / "whole")
    plain, calls = trainer.loss_of, []

    def broken(*args):
        calls.append(args)
        loss = plain(*args)
        return loss._replace(value=loss.value * (float("nan") if len(calls) == 3 else 1))

    monkeypatch.setattr(trainer, "loss_of", broken)
    with pytest.raises(NumericsError, match=r"step 3(.|\n)*\.resume/step-2") as caught:
        train(recipe, tmp_path)
    assert caught.value.exit_code == 3
    state = States.folder_of(run_folder(recipe, tmp_path).root) / "step-2"
    kept = load_file(state / "model.safetensors")
    expected = load_file(whole.checkpoint(2) / "model.safetensors")
    assert all(torch.equal(kept[name], w) for name, w in expected.items())
    assert AutoModelForCausalLM.from_pretrained(state).config.model_type == "qwen3"


def test_a_disk_that_fills_up_keeps_the_state_before(base, tmp_path, monkeypatch):
    recipe = base(steps={"max": 6}, checkpoints={"count": 2, "resume_every": 2})
    plain = torch.save

    def full(content, path, *rest):
        if "checkpoint-4" in str(path):
            raise RuntimeError(
                "[enforce fail at inline_container.cc:672] PytorchStreamWriter "
                "failed writing file data/0: file write failed"
            )
        plain(content, path, *rest)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ResultsError, match=r"the last good weights are in .*\.resume/step-2"):
        train(recipe, tmp_path)
    folder = States.folder_of(run_folder(recipe, tmp_path).root)
    assert [p.name for p in folder.iterdir()] == ["step-2"]
    monkeypatch.undo()
    assert content(train(recipe, tmp_path)) == content(train(recipe, tmp_path / "whole"))


def test_a_run_that_stops_early_continues_to_the_same_end(base, tmp_path, monkeypatch):
    def moved(model, *_, **__):
        return float((model.model.norm.weight.detach() - 1).abs().mean())

    monkeypatch.setattr(recorder, "accuracy", moved)
    steps = {"max": 20, "stop_at_accuracy": 0.055, "check_every": 2}
    recipe = base(arm="sft", steps=steps, checkpoints={"count": 5})
    whole = train(recipe, tmp_path / "whole")
    ended = whole.manifest()["steps"][-1]
    assert 2 < ended < 20
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, observe=stopping(signal.SIGTERM, ended - 1))
    assert content(train(recipe, tmp_path)) == content(whole)


def test_schedules_of_checkpoints(base):
    def planned(**checkpoints):
        return planned_steps(base(steps={"max": 100}, checkpoints=checkpoints))

    assert planned(every=30) == [0, 30, 60, 90, 100]
    assert planned(every=200) == [0, 100]
    assert planned(at=[0.2, 0.5]) == [0, 20, 50, 100]
    assert planned(at=[0.001]) == [0, 1, 100]
    assert planned(count=3) == [0, 2, 100]
    with pytest.raises(RecipeError, match="at most one"):
        planned(every=2, at=[0.5])
    with pytest.raises(RecipeError, match="at"):
        planned(at=[1.5])


def test_a_recipe_with_a_schedule_reads_back_and_one_without_keeps_its_text(base):
    recipe = base(checkpoints={"at": [0.5], "optimizer_state": True})
    assert recipe_from(recipe.resolved(), "test") == recipe
    assert set(base().resolved()["checkpoints"]) == {"count"}


def test_the_optimizer_is_kept_only_where_asked(base, tmp_path):
    plain = train(base(), tmp_path)
    asked = train(base(name="asked", checkpoints={"optimizer_state": True}), tmp_path)
    names = [{p.name for p in run.checkpoint(3).iterdir()} for run in (plain, asked)]
    assert names[1] - names[0] == {"optimizer.pt", "scheduler.pt"}
    state = torch.load(asked.checkpoint(3) / "optimizer.pt", weights_only=True)
    assert {float(held["step"]) for held in state["state"].values()} == {3.0}
