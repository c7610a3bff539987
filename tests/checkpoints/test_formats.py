"""Every format holds what the plain safetensors of the same weights hold, bit for bit."""

from pathlib import Path

import pytest
import torch
from tests.checkpoints.conftest import save_universal, whole
from tests.models import Weights
from torch.distributed.checkpoint import FileSystemReader

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import CheckpointReader, left_out
from offaxis.checkpoints.formats import format_of, open_checkpoint
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.errors import CheckpointError
from offaxis.measurement import Options, Pass, measure

ALLOWED = Access(pickle=True)

RUNS = {
    "bin": "bin/checkpoint-{}",
    "titan": "titan/checkpoint/step-{}",
    "universal": "universal/global_step{}_universal",
    "verl": "verl/global_step_{}/actor",
    "verl-alone": "verl-alone/global_step_{}/actor",
}
PICKLED = ("bin", "universal", "verl", "verl-alone")


def require_equal(reader: CheckpointReader, weights: Weights, prefix: str = "") -> None:
    """Every tensor by its header, whole, and by each entry of its first axis."""
    infos = reader.tensors()
    assert set(infos) == {prefix + name for name in weights}
    for name, W in weights.items():
        info = infos[prefix + name]
        assert (info.shape, info.dtype) == (tuple(W.shape), str(W.dtype).removeprefix("torch."))
        found = reader.read(prefix + name)
        assert type(found) is torch.Tensor
        assert found.is_contiguous()
        assert found.dtype == W.dtype
        assert torch.equal(found, W)
        for index in (0, W.shape[0] - 1):
            assert torch.equal(reader.read(prefix + name, index), W[index])


@pytest.mark.parametrize("step", [5, 10])
@pytest.mark.parametrize("run", RUNS)
def test_a_format_reads_what_was_saved(saved: Path, run: str, step: int) -> None:
    reader = open_checkpoint(saved / RUNS[run].format(step), ALLOWED)
    require_equal(reader, whole(saved / "plain" / f"checkpoint-{step}"))


@pytest.mark.parametrize(("folder", "prefix"), [("odd-verl", ""), ("odd-dcp", "app.model.")])
def test_uneven_shards_buffers_and_stacks_are_joined(saved: Path, folder: str, prefix: str) -> None:
    require_equal(open_checkpoint(saved / folder, ALLOWED), whole(saved / "odd"), prefix)


def test_lightnings_folder_keeps_the_names_of_the_state(saved: Path) -> None:
    reader = open_checkpoint(saved / "lightning" / "checkpoints" / "epoch=0-step=5.ckpt")
    require_equal(reader, whole(saved / "plain" / "checkpoint-5"), "state_dict.")


def test_what_is_no_weight_is_listed_with_its_reason(saved: Path) -> None:
    folder = saved / "titan" / "checkpoint" / "step-5"
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    count = sum(name.startswith("optimizer.") for name in entries)
    assert left_out(open_checkpoint(folder)) == {
        "optimizer.*": f"state of the training, entries: {count}",
        "train_state.*": "state of the training, entries: 1",
        "version": "no tensor",
    }


def test_stage_3_of_deepspeed_keeps_shapes_beside_its_weights(saved: Path, tmp_path: Path) -> None:
    weights = whole(saved / "odd")
    folder = save_universal(tmp_path / "stage3", weights, is_stage_3=True)
    require_equal(open_checkpoint(folder, ALLOWED), weights)
    (folder / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(CheckpointError, match="param_shapes"):
        open_checkpoint(folder, ALLOWED).tensors()


@pytest.mark.parametrize("run", PICKLED)
def test_pickles_are_refused_with_the_flag_that_opens_them(saved: Path, run: str) -> None:
    with pytest.raises(CheckpointError, match="add --allow-pickle"):
        open_checkpoint(saved / RUNS[run].format(5))


def test_a_distributed_checkpoint_is_read_without_torchs_unpickling(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpickle(*_: object, **__: object) -> None:
        raise AssertionError("torch has unpickled the metadata")

    monkeypatch.setattr(FileSystemReader, "read_metadata", unpickle)
    reader = open_checkpoint(saved / "titan" / "checkpoint" / "step-10")
    require_equal(reader, whole(saved / "plain" / "checkpoint-10"))
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("run", RUNS)
def test_a_digest_names_the_weights_and_their_files(saved: Path, run: str) -> None:
    one, other = (open_checkpoint(saved / RUNS[run].format(n), ALLOWED) for n in (5, 10))
    assert one.digest() == open_checkpoint(one.path, ALLOWED).digest() != other.digest()
    assert all(file.is_file() and file.is_relative_to(one.path) for file in one.files())
    assert len({*one.files()}) == len(one.files()) > 0


@pytest.fixture(scope="module")
def readings(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What is read of every run in one measurement, by run."""
    options = Options(passes=(Pass("stored", ("norm", "stable_rank", "sparsity")),), access=ALLOWED)
    runs = [saved / run for run in ("plain", *RUNS)]
    found = find_trajectories(runs, anchor=saved / "plain" / "checkpoint-0")
    results = measure(found, tmp_path_factory.mktemp("results"), options, workers=1)
    rows: dict[str, list[dict]] = {}
    for row in results.read("readings").to_pylist():
        run = row.pop("run")
        read = {name: value for name, value in row.items() if not name.startswith("null")}
        rows.setdefault(run, []).append(read)  # without nulls, whose draws the run's name seeds
    return rows


@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_any_format_gives_the_readings_of_the_plain_one(
    readings: dict[str, list[dict]], run: str
) -> None:
    assert len(readings[run]) > 30
    assert readings[run] == readings["plain"]


def test_formats_are_told_by_names_alone(saved: Path) -> None:
    names = [format_of(saved / place.format(5)).NAME for place in RUNS.values()]
    assert names == [
        "pytorch_model.bin",
        "torch distributed checkpoint",
        "DeepSpeed's universal checkpoint",
        "verl's FSDP files",
        "verl's FSDP files",
    ]
