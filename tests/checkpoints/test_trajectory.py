"""What the paths on a command line mean."""

import json
from pathlib import Path

import pytest
from tests.models import anchor_weights, save, save_run

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.errors import CheckpointError, UsageError
from offaxis.runs import RunFolder


def test_a_run_folder_is_measured_from_its_start(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {10: 0.1, 9: 0.1, 100: 0.2})
    (found,) = find_trajectories([run])
    assert (found.run, found.anchor) == ("run", run / "checkpoint-0")
    assert [c.step for c in found.checkpoints] == [9, 10, 100]


def test_the_manifest_names_the_anchor_before_checkpoint_0_does(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {10: 0.1, 20: 0.2})
    RunFolder(run).write_manifest({"name": "run", "anchor": "checkpoint-10"})
    (found,) = find_trajectories([run])
    assert found.anchor == run / "checkpoint-10"
    assert [c.step for c in found.checkpoints] == [0, 20]


def test_an_anchor_on_the_command_line_wins(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {10: 0.1})
    base = save(tmp_path / "base", anchor_weights())
    (found,) = find_trajectories([run], anchor=base)
    assert found.anchor == base
    assert [c.step for c in found.checkpoints] == [0, 10]


def test_without_any_anchor_there_is_nothing_to_measure_from(tmp_path: Path) -> None:
    save(tmp_path / "run" / "checkpoint-5", anchor_weights())
    with pytest.raises(UsageError, match="--anchor"):
        find_trajectories([tmp_path / "run"])
    with pytest.raises(UsageError, match="--anchor"):
        find_trajectories([tmp_path / "run" / "checkpoint-5"])


def test_anchor_then_checkpoints(tmp_path: Path) -> None:
    base = save(tmp_path / "base", anchor_weights())
    one = save(tmp_path / "a" / "checkpoint-7", anchor_weights(1))
    two = save(tmp_path / "b" / "tuned", anchor_weights(2))
    (two / "trainer_state.json").write_text(json.dumps({"global_step": 42}))
    three = save(tmp_path / "b" / "later", anchor_weights(3))
    found = {t.run: t for t in find_trajectories([base, one, two, three])}
    assert [c.step for c in found["a"].checkpoints] == [7]
    assert [(c.step, c.path.name) for c in found["b"].checkpoints] == [(2, "later"), (42, "tuned")]
    (named,) = find_trajectories([base, one, two], run="mine")
    assert (named.run, [c.step for c in named.checkpoints]) == ("mine", [7, 42])


def test_run_folders_may_stand_for_their_checkpoints(tmp_path: Path) -> None:
    base = save(tmp_path / "base", anchor_weights())
    runs = [save_run(tmp_path / name, {5: 0.1}) for name in ("x", "y")]
    assert [t.run for t in find_trajectories([base, *runs])] == ["x", "y"]
    assert [t.run for t in find_trajectories(runs)] == ["x", "y"]


def test_two_runs_of_one_name_and_two_checkpoints_of_one_step(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / name / "run", {5: 0.1}) for name in ("x", "y")]
    with pytest.raises(UsageError, match="--run NAME"):
        find_trajectories(runs)
    with pytest.raises(UsageError, match="one checkpoint a step"):
        find_trajectories([r / "checkpoint-5" for r in runs], anchor=runs[0], run="both")


def test_missing_folders_and_damaged_manifests(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        find_trajectories([tmp_path / "nowhere"])
    run = save_run(tmp_path / "run", {5: 0.1})
    ours = '{"format": "offaxis-run", "version": 1, '
    for content in ("{", ours + '"anchor": 5}', ours + '"precision": "bf16"}', ours[:-14] + "2}"):
        (run / "manifest.json").write_text(content)
        with pytest.raises(CheckpointError, match="manifest"):
            find_trajectories([run])
    for content in ("[]", "{}", '{"format": "another tool"}'):
        (run / "manifest.json").write_text(content)
        assert find_trajectories([run])[0].anchor == run / "checkpoint-0"
    (run / "manifest.json").unlink()
    (run / "checkpoint-5" / "model.safetensors").unlink()
    (run / "checkpoint-5").rmdir()
    with pytest.raises(CheckpointError, match="at least one checkpoint"):
        find_trajectories([run])


def test_weights_beside_the_checkpoints_are_not_left_out_in_silence(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {5: 0.1})
    (alone,) = find_trajectories([run])
    assert alone.notes == (f"updates are measured from {alone.anchor}",)
    save(run, anchor_weights())
    (found,) = find_trajectories([run])
    assert [c.step for c in found.checkpoints] == [5]
    assert "the weights that lie in" in found.notes[1]


def test_an_anchor_alone_is_nothing_to_measure(tmp_path: Path) -> None:
    base = save(tmp_path / "base", anchor_weights())
    for name in (None, "named"):
        with pytest.raises(CheckpointError, match="only the anchor"):
            find_trajectories([base, base], run=name)
