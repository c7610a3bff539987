"""Shards of any mesh are joined by their placements; what is no whole save is refused."""

import os
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tests.checkpoints.conftest import save_state
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.testing._internal.distributed.fake_pg import FakeStore

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.errors import CheckpointError

ALLOWED = Access(pickle=True)


@contextmanager
def as_rank(rank: int, mesh: Sequence[int]) -> Iterator[DeviceMesh]:
    """The mesh as one of its processes sees it, by torch's group of pretended processes."""
    world = torch.Size(mesh).numel()
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield init_device_mesh("cpu", tuple(mesh))
    finally:
        dist.destroy_process_group()


def save_ranks(
    folder: Path, W: torch.Tensor, mesh: Sequence[int], placements: Sequence[Placement]
) -> Path:
    """What every process of a mesh saves of a tensor, cut by torch."""
    world = torch.Size(mesh).numel()
    for rank in range(world):
        with as_rank(rank, mesh) as its_mesh:
            part = distribute_tensor(W, its_mesh, placements, src_data_rank=None)
            save_state(folder / name_of(rank, world), {"w": part})
    return folder


def name_of(rank: int, world: int) -> str:
    return f"model_world_size_{world}_rank_{rank}.pt"


PLACEMENTS = st.sampled_from([Shard(0), Shard(1), Shard(2), Replicate()])


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    mesh=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    placements=st.tuples(PLACEMENTS, PLACEMENTS),
    index=st.integers(0, 6),
)
def test_any_placement_on_any_mesh_is_joined(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    mesh: list[int],
    placements: tuple[Placement, Placement],
    index: int,
) -> None:
    W = torch.arange(torch.Size(shape).numel(), dtype=torch.bfloat16).view(shape)
    folder = save_ranks(tmp_path_factory.mktemp("ranks"), W, mesh, placements[: len(mesh)])
    reader = open_checkpoint(folder, ALLOWED)
    assert reader.tensors()["w"] == ("w", shape, "bfloat16")
    assert torch.equal(reader.read("w"), W)
    assert torch.equal(reader.read("w", index % shape[0]), W[index % shape[0]])


def test_meshes_of_earlier_versions_of_torch_are_understood(tmp_path: Path) -> None:
    """Before 2.9 a mesh held its ranks in a tensor, from which later ones make a layout."""
    W = torch.randn(5, 3)
    folder = save_ranks(tmp_path, W, (2,), [Shard(0)])
    for rank in range(2):
        file = folder / name_of(rank, 2)
        held = torch.load(file, weights_only=True)
        mesh = held["w"].device_mesh
        ranks = mesh.mesh.clone()
        vars(mesh).clear()
        vars(mesh).update(_device_type="cpu", mesh=ranks, mesh_dim_names=("fsdp",))
        torch.save(held, file)
    assert torch.equal(open_checkpoint(folder, ALLOWED).read("w"), W)


def test_what_was_saved_on_a_gpu_is_read_without_one(tmp_path: Path) -> None:
    W = torch.randn(5, 3)
    folder = save_ranks(tmp_path, W, (2,), [Shard(0)])
    for rank in range(2):
        file = folder / name_of(rank, 2)
        with zipfile.ZipFile(file) as archive:
            records = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in records.items():  # every place and device that the pickle names
                archive.writestr(name, content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    assert b"cuda:0" in (folder / name_of(0, 2)).read_bytes()
    assert torch.equal(open_checkpoint(folder, ALLOWED).read("w"), W)


def test_what_is_whole_in_every_file_must_be_equal(tmp_path: Path) -> None:
    W = torch.randn(4, 3)
    for rank in range(2):
        save_state(tmp_path / name_of(rank, 2), {"w": W})
    assert torch.equal(open_checkpoint(tmp_path, ALLOWED).read("w"), W)
    save_state(tmp_path / name_of(1, 2), {"w": W + 1})
    with pytest.raises(CheckpointError, match="without a placement"):
        open_checkpoint(tmp_path, ALLOWED).read("w")
    save_state(tmp_path / name_of(1, 2), {"w": W[:2]})
    with pytest.raises(CheckpointError, match="one shape and dtype"):
        open_checkpoint(tmp_path, ALLOWED).read("w")


def test_files_of_no_whole_save_are_refused(tmp_path: Path) -> None:
    W = torch.randn(5, 3)
    folder = save_ranks(tmp_path, W, (3,), [Shard(0)])
    (folder / name_of(1, 3)).rename(tmp_path / "aside")
    with pytest.raises(CheckpointError, match="none of rank 1"):
        open_checkpoint(folder, ALLOWED).tensors()
    (tmp_path / "aside").rename(folder / name_of(1, 3))
    save_state(folder / name_of(0, 1), {"w": W})
    with pytest.raises(CheckpointError, match="world sizes 1, 3"):
        open_checkpoint(folder, ALLOWED).tensors()
    (folder / name_of(0, 1)).unlink()
    save_state(folder / name_of(2, 3), {"w": W, "v": W})
    with pytest.raises(CheckpointError, match="'v' in one of ranks 0 and 2"):
        open_checkpoint(folder, ALLOWED).read("w")


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = save_ranks(tmp_path, torch.randn(5, 3), (2,), [Shard(0)])
    first, second = (folder / name_of(rank, 2) for rank in range(2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match="where rank 1 holds"):
        open_checkpoint(folder, ALLOWED).read("w")
    with as_rank(0, (2,)) as mesh:
        sums = DTensor.from_local(torch.randn(5, 3), mesh, [Partial()])
        save_state(first, {"w": sums})
    with pytest.raises(CheckpointError, match="model_merger"):
        open_checkpoint(folder, ALLOWED).tensors()


def test_an_adapter_inside_the_model_is_pointed_to(tmp_path: Path) -> None:
    state = {"model.q_proj.base_layer.weight": torch.ones(2, 2)}
    state["model.q_proj.lora_A.default.weight"] = torch.ones(1, 2)
    save_state(tmp_path / name_of(0, 1), state)
    with pytest.raises(CheckpointError, match="lora_adapter"):
        open_checkpoint(tmp_path, ALLOWED).tensors()


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)

    def __init__(self, mark: Path) -> None:
        self.mark = mark


def test_a_hostile_shard_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    folder = save_ranks(tmp_path / "ranks", torch.randn(4, 3), (2,), [Shard(0)])
    save_state(folder / name_of(1, 2), {"w": torch.randn(2, 3), "x": Hostile(mark)})
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        open_checkpoint(folder, ALLOWED).read("w")
    (folder / name_of(1, 2)).write_bytes(pickle.dumps({"w": Hostile(mark)}))
    with pytest.raises(CheckpointError, match=r"an archive of torch\.save"):
        open_checkpoint(folder, ALLOWED).read("w")
    assert not mark.exists()
