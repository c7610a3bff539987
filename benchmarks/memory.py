"""Peak memory above start, as a multiple of the largest matrix in bf16; Linux alone tells it."""

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.diagnostics.base import Tier
from offaxis.engine import Stored, evaluate
from offaxis.measurement import Options, measure
from offaxis.workers import give_back
from pairs import layers, save_model
from rows import Row, named, row
from tiers import TIERS, Tested

_WARM = (320, 320)
_FLAT = (512, 2048)
_LIMIT = "<= 1.1"


def alone(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - as it answers
    """Call a function in a fresh process, and return its answer."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def of_one_matrix(shape: tuple[int, int]) -> list[Row]:
    """What the engine holds while it prepares an anchor's matrix, and for one checkpoint of it."""
    rows = []
    with TemporaryDirectory() as folder:
        save_model(Path(folder, "warm"), layers(1, _WARM), 1)
        save_model(Path(folder, "made"), layers(1, shape), 1)
        for tier in TIERS:
            anchor, checkpoint = alone(phases, Path(folder), tier)
            size = "its size in bf16"
            case = f"{named(shape)}, {tier}"
            rows.append(row("peak memory, anchor", size, case, anchor, "<= 10"))
            rows.append(row("peak memory, a checkpoint", size, case, checkpoint, "<= 8"))
    return rows


def phases(folder: Path, tier: Tier) -> tuple[float, float]:
    """Peaks above start while an anchor is prepared, and while a checkpoint is measured."""
    torch.set_num_threads(1)
    _measured(folder / "warm", tier)
    give_back()
    start = status("VmRSS")
    anchor, checkpoint, size = _measured(folder / "made", tier)
    return (anchor - start) / size, (checkpoint - start) / size


def _measured(folder: Path, tier: Tier) -> tuple[int, int, int]:
    (name,) = layers(1, _WARM)
    forget_peak()
    tested = Tested(tier, open_checkpoint(folder / "anchor").read(name))
    tested.prepare()
    assert tested.anchor is not None
    anchor = status("VmHWM")
    give_back()  # as a worker does
    forget_peak()
    reader = open_checkpoint(folder / "run/checkpoint-1")
    held = Stored(lambda: reader.read(name), torch.bfloat16, "float32")
    evaluate(tested.anchor, held, tested.chosen, {}, Options().draws_for("bench"))
    return anchor, status("VmHWM"), tested.W.nbytes


def flatness() -> list[Row]:
    """What one worker holds for 64 layers and for 20 checkpoints, against 8 layers and 2."""
    rows = []
    with TemporaryDirectory() as folder:
        start = _worker(Path(folder, "start"), layers(1, _WARM), 1)
        usual = _worker(Path(folder, "usual"), layers(8, _FLAT), 2) - start
        size = 2 * _FLAT[0] * _FLAT[1]
        case = f"one worker, fast, {named(_FLAT)}"
        rows.append(row("peak memory of `measure`", "its size in bf16", case, usual / size))
        for what, count, checkpoints in (("64 layers", 64, 2), ("20 checkpoints", 8, 20)):
            peak = _worker(Path(folder, what), layers(count, _FLAT), checkpoints) - start
            less = "8 layers" if count > 8 else "2 checkpoints"
            rows.append(row(f"peak memory, {what}", less, case, peak / usual, _LIMIT))
    return rows


def _worker(folder: Path, shapes: dict[str, tuple[int, ...]], checkpoints: int) -> int:
    save_model(folder, shapes, checkpoints)
    peak: int = alone(worker_peak, folder)
    return peak


def worker_peak(folder: Path) -> int:
    """The peak of the one worker that reads a made model, without nulls by draw, in bytes."""
    found = find_trajectories([folder / "anchor", folder / "run"])
    measure(found, folder / "results", Options(tier="fast", draws=0, edge_draws=0), workers=1)
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def status(name: str) -> int:
    """Bytes that the system counts for this process: `VmRSS` now, `VmHWM` at the peak."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def forget_peak() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")
