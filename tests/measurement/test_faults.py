"""Killed anywhere, or run twice at once: the same table, and nothing finished is made again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offaxis import files
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.files import exclusively, sweep
from offaxis.measurement import Options, measure
from offaxis.table import ResultsFolder
from tests.measurement.conftest import content
from tests.models import save_run

NUM_UNITS = 6 * 3  # tensors of the tiny model, checkpoints of the run
KILLS = 5


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "offaxis", "measure", *map(str, arguments)]


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Units by path, with what would change if they were written again."""
    found = {}
    for path in out.rglob("factors/**/[!.]*.safetensors"):
        stat = path.stat()
        found[str(path)] = (stat.st_ino, stat.st_mtime_ns)
    return found


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.trials) for seed in range(1, 12))]
)
def test_killed_anywhere_and_run_again(
    run_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    kept: dict[str, tuple[int, int]] = {}
    for kill in range(KILLS):
        kill_somewhere(command(run_folder, "--out", tmp_path, "--workers", 2), tmp_path, rng, kill)
        held = finished(tmp_path)
        assert {path: held[path] for path in kept} == kept
        kept = held
    measure(find_trajectories([run_folder]), tmp_path, Options(), workers=1)
    held = finished(tmp_path)
    assert len(held) == NUM_UNITS
    assert {path: held[path] for path in kept} == kept
    assert content(tmp_path) == undisturbed
    assert not list(tmp_path.rglob("*.partial"))


def kill_somewhere(arguments: list[str], out: Path, rng: random.Random, kill: int) -> None:
    """Kill when so many units are there and a moment has passed, as chance wills.

    Where nothing new is waited for, the moment may be any from the start to the end. Every other
    kill falls on the parent alone, which its workers must not outlive.
    """
    before = len(finished(out))
    wanted = rng.randint(before, NUM_UNITS)
    delay = rng.uniform(0, 4 if wanted == before else 0.1)
    process = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(finished(out)) < wanted and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is None:
        (os.kill if kill % 2 else os.killpg)(process.pid, signal.SIGKILL)
    assert process.wait() in (0, -signal.SIGKILL)
    deadline = time.monotonic() + 60
    while members(process.pid):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.01)


def test_several_processes_in_one_folder(
    run_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Two of the same run, of which one waits, and one of another run."""
    other, out = save_run(tmp_path / "other", {2: 5e-3}), tmp_path / "out"
    with exclusively(ResultsFolder(out).lock("tiny")):
        started = [
            subprocess.Popen(
                command(folder, "--out", out, "--workers", 1), stderr=subprocess.PIPE, text=True
            )
            for folder in (run_folder, run_folder, other)
        ]
        for process in started[:2]:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.startswith("waiting: another process measures 'tiny'"), said
        assert not list(out.glob("factors/tiny/*"))
    ended = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert [run["name"] for run in ResultsFolder(out).manifest()["runs"]] == ["other", "tiny"]
    alone = tmp_path / "alone"
    measure(find_trajectories([other]), alone, Options(), workers=1)
    assert tables(content(out)) == tables(content(alone) | undisturbed)


def tables(held: dict[str, bytes]) -> dict[str, bytes]:
    return {name: part for name, part in held.items() if name.endswith(".parquet")}


def test_only_what_the_dead_of_this_machine_have_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    made: list[Path] = []

    def leave(path: Path) -> None:
        path.touch()
        made.append(path)

    def leave_as(process: int) -> Path:
        monkeypatch.setattr(os, "getpid", lambda: process)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", lambda *_: None)
            patched.setattr(Path, "unlink", lambda *_, **__: None)
            files.write_atomically(tmp_path / "a.b.unit", leave)
        return made[-1]

    mine, dead = leave_as(os.getpid()), leave_as(ended.pid)
    monkeypatch.setattr(files, "_HOST", "0" * 8)
    abroad = leave_as(ended.pid)
    monkeypatch.undo()
    sweep(tmp_path)
    assert (mine.exists(), dead.exists(), abroad.exists()) == (True, False, True)
