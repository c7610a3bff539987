"""What one matrix takes is what the plan says, whatever the number of checkpoints."""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.diagnostics.base import Tier
from offaxis.measurement import Options
from offaxis.measurement.assemble import RunView, gather_rows
from offaxis.measurement.plan import make_plan
from offaxis.measurement.stream import run_task
from offaxis.measurement.tasks import Task
from offaxis.table import ResultsFolder
from offaxis.workers import WORKER, give_back
from tests.adapters import save_adapter
from tests.models import save

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells the peak")

NAME, WARM = "model.layers.0.mlp.up_proj.weight", (320, 640)


class Peaks(NamedTuple):
    """Bytes above start, and those that were stated: of measuring, of comparing checkpoints."""

    measuring: int
    stated: int
    comparing: int
    stated_comparing: int


def made(folder: Path, shape: tuple[int, int], checkpoints: int) -> Path:
    g = torch.Generator().manual_seed(0)
    W = 0.02 * torch.randn(shape, generator=g)
    save(folder / "checkpoint-0", {NAME: W}, torch.bfloat16)
    for step in range(1, checkpoints + 1):
        W = W + 1e-4 * torch.randn(shape, generator=g)
        save(folder / f"checkpoint-{step}", {NAME: W}, torch.bfloat16)
    return folder


def adapted(folder: Path, shape: tuple[int, int], checkpoints: int) -> Path:
    """Adapters of rank 8 on a base beside them."""
    g = torch.Generator().manual_seed(0)
    save(folder / "base", {NAME: 0.02 * torch.randn(shape, generator=g)}, torch.bfloat16)
    for step in range(1, checkpoints + 1):
        A, B = (1e-2 * torch.randn(size, generator=g) for size in ((8, shape[1]), (shape[0], 8)))
        save_adapter(folder / f"checkpoint-{step}", {NAME: (A, B)}, r=8, rank_pattern={})
    return folder


def measured(folder: Path, options: Options) -> Peaks:
    results = ResultsFolder(folder / "results")
    base = folder / "base"
    trajectories = find_trajectories([folder], anchor=base if base.exists() else None)
    plan = make_plan(trajectories, results, options, str)
    task: Task = plan.tasks[0]
    steps = tuple(source.step for source in plan.sources[folder.name])
    rows = results.spool(folder.name) / "0.arrows"
    view = RunView(results, folder.name, "", {"stored": steps}, task.view, "float32", options, rows)
    start = status("VmRSS")
    measuring = peak(lambda: run_task(task)) - start
    comparing = peak(lambda: gather_rows(view)) - start
    return Peaks(measuring, task.peak_bytes, comparing, view.peak_bytes)


def warmed(warm: Path, folder: Path, options: Options) -> Peaks:
    """The peaks in a process that has loaded and compiled what it needs."""
    torch.set_num_threads(1)
    measured(warm, options)
    return measured(folder, options)


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peak(work: Callable[[], object]) -> int:
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    work()
    return status("VmHWM")


def in_fresh_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, options: Options
) -> Peaks:
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    warm, first = (made(tmp_path / f"{name}-{folder.name}", WARM, 2) for name in ("warm", "first"))
    # What a compiler took would count: another process compiles, and leaves the loops on disk.
    for work, folders in ((measured, (first,)), (warmed, (warm, folder))):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(work, *folders, options).result()
    return found


def kept_and_left() -> tuple[int, int]:
    """What stays resident of a hundred megabytes of freed blocks, before and after giving back."""
    start = status("VmRSS")
    blocks = [torch.ones(1 << 20) for _ in range(25)]
    pin = torch.ones(1 << 20)  # on top of the heap, which can shrink no further
    del blocks
    kept = status("VmRSS") - start
    give_back()
    left = status("VmRSS") - start
    del pin
    return kept, left


def test_freed_blocks_wait_for_the_next_stage_until_they_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        kept, left = pool.submit(kept_and_left).result()
    assert kept > 80 << 20
    assert left < 20 << 20


@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_a_matrix_takes_no_more_than_is_stated(
    tier: Tier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "run", (640, 1280), 2)
    found = in_fresh_process(monkeypatch, tmp_path, folder, Options(tier=tier))
    assert found.stated / 2 <= found.measuring <= found.stated
    assert found.comparing <= found.stated_comparing


@pytest.mark.trials
@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_an_adapted_matrix_takes_no_more_than_is_stated(
    tier: Tier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapted(tmp_path / "run", (640, 1280), 2)
    found = in_fresh_process(monkeypatch, tmp_path, folder, Options(tier=tier))
    assert found.stated / 2 <= found.measuring <= found.stated
    assert found.comparing <= found.stated_comparing


def test_comparing_twenty_checkpoints_holds_what_four_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that factors weigh beside what the heap keeps, which differs by some matrices.
    options, shape = Options(tier="fast", draws=0, edge_draws=0), (128, 8192)
    few, many = (
        in_fresh_process(monkeypatch, tmp_path, made(tmp_path / f"of{n}", shape, n), options)
        for n in (4, 20)
    )
    # What 16 more would hold is 16 times one.
    matrix = 2 * shape[0] * shape[1]
    factors = 8 * 2 * 16 * sum(shape)  # of the update and the step, left and right
    assert many.measuring <= few.measuring + 8 * matrix
    assert many.comparing <= few.comparing + 8 * factors
