"""Executors: the same numbers on every engine, within limits, and one message when one fails."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.errors import CheckpointError, ResultsError, UsageError
from offaxis.measurement import Options, measure
from offaxis.measurement.digests import hash_checkpoint
from offaxis.measurement.executors import engine_for, follows, open_executor
from offaxis.measurement.executors.base import Limits, in_turn
from offaxis.measurement.executors.cluster import find_cluster
from offaxis.measurement.executors.torchrun import VARIABLES
from offaxis.workers import GIVES_BACK, SINGLE_THREAD
from tests.measurement.conftest import content
from tests.measurement.test_faults import finished
from tests.models import anchor_weights, moved, save, save_run

RANK = dict.fromkeys(VARIABLES, "1")


@given(
    peaks=st.lists(st.integers(0, 10), max_size=20),
    tasks=st.none() | st.integers(1, 5),
    budget=st.none() | st.integers(10, 30),
    chance=st.randoms(use_true_random=False),
)
def test_everything_runs_once_and_within_the_limits(peaks, tasks, budget, chance) -> None:
    begun: list[int] = []
    running: set[int] = set()

    def begin(position: int) -> int:
        begun.append(position)
        running.add(position)
        assert tasks is None or len(running) <= tasks
        assert budget is None or sum(peaks[i] for i in running) <= budget
        return position

    def ended(handles: Collection[int]) -> list[int]:
        assert set(handles) == running
        waiting = set(range(len(peaks))) - set(begun)
        if tasks is None or len(running) < tasks:  # what could have begun has begun
            room = float("inf") if budget is None else budget - sum(peaks[i] for i in running)
            assert all(peaks[i] > room for i in waiting)
        gone = chance.sample(sorted(running), chance.randint(1, len(running)))
        running.difference_update(gone)
        return gone

    yielded = [position for position, _ in in_turn(peaks, Limits(tasks, budget), begin, ended)]
    assert sorted(begun) == sorted(yielded) == list(range(len(peaks)))
    assert not running


def test_a_matrix_larger_than_the_budget_is_one_error_before_anything(
    run_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"--max-memory.*\n.*the largest matrix"):
        measure(find_trajectories([run_folder]), tmp_path, Options(), workers=1, max_memory=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_workers_have_one_thread_and_the_parent_keeps_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with open_executor("pool", 1, None) as pool:
        found = dict(pool.as_done(os.getenv, list(SINGLE_THREAD)))
        assert set(found.values()) == {"1"}
        returns = dict(pool.as_done(os.getenv, list(GIVES_BACK)))
        assert list(returns.values()) == list(GIVES_BACK.values())
        assert list(pool.as_done(eval, ["__import__('torch').get_num_threads()"])) == [(0, 1)]
        with pytest.raises(CheckpointError, match="no such folder"):
            list(pool.as_done(hash_checkpoint, [tmp_path / "nowhere"]))
        assert not list(pool.as_done(hash_checkpoint, []))
    assert dict(os.environ) == before


def test_a_killed_worker_is_one_message() -> None:
    with (
        pytest.raises(ResultsError, match="killed, perhaps for want of memory"),
        open_executor("pool", 1, None) as pool,
    ):
        list(pool.as_done(os._exit, [1]))


def test_torchrun_is_told_by_its_environment() -> None:
    assert engine_for(None, {}) == "pool"
    assert engine_for(None, RANK) == "torchrun"
    assert engine_for("pool", RANK) == "pool"
    assert not follows("pool", RANK)
    assert follows("torchrun", RANK)
    assert not follows("torchrun", RANK | {"RANK": "0"})
    with pytest.raises(UsageError, match="torchrun --nproc-per-node 2"):
        engine_for("torchrun", {"RANK": "0"})


def torchrun_command(*arguments: object) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", "2", "-m", "offaxis", "measure", *map(str, arguments)),
    ]


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        torchrun_command(*arguments), capture_output=True, text=True, check=False, timeout=240
    )


def test_a_rank_that_fails_ends_the_job_with_its_message(tmp_path: Path) -> None:
    """The third of five matrices belongs to the first rank, the second to the other."""
    run = save_run(tmp_path / "run", {1: 1e-3})
    bad = moved(anchor_weights(), 2e-3)
    for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        bad[name][3, 4] = float("nan")
    save(run / "checkpoint-2", bad)
    done = torchrun(run, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "1 of 2560 entries NaN" in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.trials)])
def test_a_rank_killed_from_outside_ends_the_job_and_the_same_command_goes_on(
    run_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, killed: int
) -> None:
    """What two ranks make is the pool's table; one of them plans, prints and writes."""
    out = tmp_path / "ranks"
    arguments = torchrun_command(run_folder, "--out", out)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as job:
        while not finished(out) and job.poll() is None:
            time.sleep(0.01)
        [rank] = [p for p in children(job.pid) if f"RANK={killed}" in environment_of(p)]
        os.kill(rank, signal.SIGKILL)
        said = job.communicate(timeout=120)[1]
    assert job.returncode == 1
    assert "another rank has failed or was killed" in " ".join(said.split())
    assert not (out / "manifest.json").exists()
    kept = finished(out)
    assert kept
    done = torchrun(run_folder, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"results: {out}\n"
    assert done.stderr.count("plan:") == 1
    assert {path: finished(out)[path] for path in kept} == kept
    assert content(out) == undisturbed


def children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_ray_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"offaxis\[ray\]"):
        open_executor("ray", 1, None).__enter__()


ON_A_CLUSTER = """
import os, signal, sys
from pathlib import Path
from unittest import mock
from ray.cluster_utils import Cluster
from offaxis.cli import run
from offaxis.measurement import units
from offaxis.measurement.stream import run_task

folder, out, killed = map(Path, sys.argv[1:])

def killed_once(task):  # travels by value, as what belongs to the main script does
    save = units.save

    def save_and_die(*arguments):
        save(*arguments)
        try:
            killed.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(units, "save", save_and_die):
        return run_task(task)

node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_log_monitor": False}
head = {**node, "include_dashboard": False, "no_monitor": True}
cluster = Cluster(initialize_head=True, head_node_args=head)
try:
    cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    os.chdir(folder.parent)  # where the cluster was not started
    with mock.patch("offaxis.measurement.run.run_task", killed_once):
        code = run(["measure", folder.name, "--out", str(out), "--executor", "ray"])
    print("the command ended with", code, flush=True)
finally:
    cluster.shutdown()
sys.exit(code)
"""


@contextmanager
def of_ray() -> Iterator[dict[str, str]]:
    """The environment of a cluster on this machine, of which nothing outlives the block."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:
        quiet = {
            "RAY_TMPDIR": short,  # sockets have short names
            "HOME": short,  # where Ray keeps the user's token, which is no business of a test
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        found = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        try:
            yield found | quiet
        finally:
            kill_those_with(f"RAY_TMPDIR={short}")


def kill_those_with(variable: str) -> None:
    """Kill the processes in whose environment a variable has a value that only ours have."""
    deadline = time.monotonic() + 20
    while ours := [process for process in living() if variable in environment_of(process)]:
        assert time.monotonic() < deadline, f"Ray's processes cannot be killed: {ours}"
        for process in ours:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def living() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def environment_of(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def with_ray(*arguments: object, limit: float = 600) -> subprocess.CompletedProcess[str]:
    """Run Python, and end it and its cluster whatever happens, also when it hangs."""
    with of_ray() as environment:
        return python(*arguments, environment=environment, limit=limit)


def python(
    *arguments: object, environment: dict[str, str], limit: float
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as said:  # pipes stay open as long as a daemon lives
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # so that it says where it was
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        said.seek(0)
        return subprocess.CompletedProcess(command, process.wait(), said.read())


NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs offaxis[ray]")


@NEEDS_RAY
def test_a_killed_worker_is_survived_on_two_nodes_of_ray(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    done = with_ray("-c", ON_A_CLUSTER, run_folder, tmp_path / "ray", killed)
    # Ray's own test cluster, ended after the command, may abort the process on a busy machine
    assert "the command ended with 0" in done.stdout, done.stdout
    assert killed.exists()
    monkeypatch.chdir(run_folder.parent)  # the same relative path, which the manifest names
    same = find_trajectories([Path(run_folder.name)])
    measure(same, tmp_path / "pool", Options(), workers=1)
    assert content(tmp_path / "ray") == content(tmp_path / "pool")


@NEEDS_RAY
@pytest.mark.trials
def test_ray_is_started_in_process_where_there_is_no_cluster(
    run_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = ["-m", "offaxis", "measure", run_folder, "--executor", "ray", "--out"]
    done = with_ray(*arguments, tmp_path / "ray", "--workers", "2")
    assert done.returncode == 0, done.stdout
    assert content(tmp_path / "ray") == undisturbed


@NEEDS_RAY
@pytest.mark.trials
def test_a_cluster_started_by_hand_is_joined_and_its_ruins_are_not(
    run_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    head = ["-m", "ray.scripts.scripts", "start", "--head", "--num-cpus", "2", "--port", "0"]
    small = ["--include-dashboard", "false", "--object-store-memory", "80000000"]
    arguments = ["-m", "offaxis", "measure", run_folder, "--executor", "ray", "--out"]
    with of_ray() as environment:
        started = python(*head, *small, environment=environment, limit=120)
        assert started.returncode == 0, started.stdout
        done = python(*arguments, tmp_path / "ray", environment=environment, limit=120)
        assert done.returncode == 0, done.stdout
        assert len(list(Path(environment["RAY_TMPDIR"]).glob("ray/session_2*"))) == 1
        kill_those_with(f"RAY_TMPDIR={environment['RAY_TMPDIR']}")
        again = python(*arguments, tmp_path / "again", environment=environment, limit=120)
        assert again.returncode == 0, again.stdout
    assert content(tmp_path / "ray") == undisturbed
    assert content(tmp_path / "again") == undisturbed


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def test_a_cluster_that_does_not_answer_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"RAY_ADDRESS\n(.*\n)+.*no answer within 0.1 seconds"):
            find_cluster({"RAY_ADDRESS": address}, patience=0.1)
    for name, found in {address: "refused", "ray://nowhere": "of the form host:port"}.items():
        begun = time.monotonic()
        with pytest.raises(UsageError, match=f"{name}.*{found}"):
            find_cluster({"RAY_ADDRESS": name})
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("greeting", "found"), [(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), True), (b"HTTP/1.1 400", False)]
)
def test_what_listens_must_speak_as_ray_does(greeting: bytes, found: bool, tmp_path: Path) -> None:
    def answer() -> None:
        line, _ = server.accept()
        with line:
            line.recv(100)
            line.sendall(greeting)

    with listening() as server, ThreadPoolExecutor(1) as other:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        answered = other.submit(answer)
        expected = "auto" if found else None
        assert find_cluster({"RAY_TMPDIR": str(tmp_path)}, patience=5.0) == expected
        answered.result()


def test_where_nothing_was_started_there_is_nothing_to_join(tmp_path: Path) -> None:
    assert find_cluster({"TMPDIR": str(tmp_path)}) is None
    assert find_cluster({"RAY_ADDRESS": "local"}) is None


@NEEDS_RAY
def test_an_unreachable_cluster_does_not_wait(run_folder: Path, tmp_path: Path) -> None:
    with listening() as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    arguments = ["-m", "offaxis", "measure", run_folder, "--executor", "ray", "--out", tmp_path]
    environment = os.environ | {"RAY_ADDRESS": address}
    done = python(*arguments, environment=environment, limit=60)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stdout.splitlines()[-4:]] == [
        *("where", "expected", "found", "do")
    ]
