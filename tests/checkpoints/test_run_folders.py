"""Where the steps of a run are found, whoever trained it."""

from pathlib import Path
from shutil import copytree

import pytest
from tests.checkpoints.conftest import save_bin, save_state, save_universal
from tests.models import anchor_weights, save

from offaxis.checkpoints.run_folders import run_of, step_of, steps_of
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.errors import CheckpointError, UsageError

ROOT = {
    "plain": "plain/checkpoint-{}",
    "bin": "bin/checkpoint-{}",
    "verl": "verl/global_step_{}/actor",
    "verl-alone": "verl-alone/global_step_{}/actor",
    "titan": "titan/checkpoint/step-{}",
    "lightning": "lightning/checkpoints/epoch=0-step={}.ckpt",
    "universal": "universal/global_step{}_universal",
}


@pytest.mark.parametrize("run", ROOT)
def test_a_run_folder_is_understood_with_an_anchor_of_another_format(saved: Path, run: str) -> None:
    base = saved / "plain" / "checkpoint-0"
    (found,) = find_trajectories([saved / run], anchor=base)
    assert (found.run, found.anchor) == (run, base)
    assert [(c.step, c.path) for c in found.checkpoints] == [
        (step, saved / ROOT[run].format(step)) for step in (5, 10)
    ]


@pytest.mark.parametrize("run", ROOT)
def test_checkpoints_may_be_given_one_by_one(saved: Path, run: str) -> None:
    base = saved / "plain" / "checkpoint-0"
    inner = [saved / ROOT[run].format(step) for step in (5, 10)]
    for given in (
        inner,
        [run_of(path) / path.relative_to(run_of(path)).parts[0] for path in inner],
    ):
        (found,) = find_trajectories([base, *given])
        assert [(c.step, c.path) for c in found.checkpoints] == list(
            zip((5, 10), inner, strict=True)
        )
        assert found.origin == str(run_of(inner[0].resolve()))


def test_an_anchor_that_is_found_is_said(saved: Path) -> None:
    (found,) = find_trajectories([saved / "plain"])
    assert found.anchor == saved / "plain" / "checkpoint-0"
    assert found.notes == (f"updates are measured from {found.anchor}",)
    with pytest.raises(UsageError, match="--anchor"):
        find_trajectories([saved / "verl"])


def test_what_a_name_says_of_its_step() -> None:
    names = {
        "run/checkpoint-7": 7,
        "run/global_step_7/actor": 7,
        "run/global_step_7/critic": 7,
        "run/global_step_7/actor/huggingface": 7,
        "run/global_step7_universal": 7,
        "run/epoch=3-step=7.ckpt": 7,
        "run/step_00007": 7,
        "run/iter_0000007": 7,
        "run/final": None,
        "step-3/other/model": None,
        "actor": None,
    }
    assert {name: step_of(Path(name)) for name in names} == names
    assert run_of(Path("run/global_step_7/actor")) == Path("run")
    assert run_of(Path("run/final")) == Path("run")


def test_trainers_sharded_state_is_found_beside_its_optimizers(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    step = run / "checkpoint-5"
    step.mkdir(parents=True)
    (step / "trainer_state.json").write_text('{"global_step": 5}')
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        copytree(saved / "odd-dcp", step / name)
    place = steps_of(run)[5]
    assert place.path == step / "pytorch_model_fsdp_0"
    assert place.notes == (f"not measured: {step / 'optimizer_0'}",)


@pytest.mark.parametrize("link", ["checkpoints", "checkpoint-5", "checkpoint-5/model"])
def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path, link: str) -> None:
    outside = save(tmp_path / "outside" / "checkpoint-5", anchor_weights())
    place = tmp_path / "run" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(outside.parent if link == "checkpoints" else outside)
    with pytest.raises(CheckpointError, match="a link to"):
        steps_of(tmp_path / "run")
    inside = save(tmp_path / "run" / "kept", anchor_weights())
    place.unlink()
    (tmp_path / "run" / "step-6").symlink_to(inside)
    assert steps_of(tmp_path / "run")[6].path.resolve() == inside


def test_whole_weights_go_before_sharded_ones_below(tmp_path: Path) -> None:
    step = save(tmp_path / "run" / "checkpoint-5", anchor_weights())
    save_state(step / "global_step5" / "mp_rank_00_optim_states.pt", {})
    assert steps_of(tmp_path / "run")[5] == (step, ())


def test_two_folders_of_one_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_state(run / "global_step5" / "zero_pp_rank_0_mp_rank_00_optim_states.pt", {})
    kept = save_universal(run / "global_step5_universal", anchor_weights())
    assert steps_of(run)[5].path == kept
    assert "ZeRO" in steps_of(run)[5].notes[0]
    save_bin(run / "step-5", anchor_weights())
    with pytest.raises(UsageError, match="one checkpoint a step"):
        steps_of(run)


def test_a_step_without_weights_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    base = save(tmp_path / "base", anchor_weights())
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    (found,) = find_trajectories([tmp_path / "run"], anchor=base)
    assert [c.step for c in found.checkpoints] == [5]
    with pytest.raises(CheckpointError, match="no such folder"):
        find_trajectories([tmp_path / "nowhere"], anchor=base)
