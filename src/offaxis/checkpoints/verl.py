"""verl's folders: what each process held of the model, joined without a merge step.

`global_step_N/actor/model_world_size_W_rank_R.pt` are the state dicts of FSDP's processes: shards
with their placements on the mesh of processes, or whole tensors where there is one process.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.hashing import digest_of
from offaxis.checkpoints.parts import Part, joined, require_whole
from offaxis.checkpoints.pickled import State, dtype_name, mapped
from offaxis.checkpoints.trust import own_file, require_pickle
from offaxis.errors import CheckpointError

_RANK = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


class _Held(NamedTuple):
    """What one process says of a tensor and of the box of it that it holds."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offsets: tuple[int, ...]
    local: Tensor


class VerlFolder:
    """One `actor` folder, opened where the user allows pickles."""

    def __init__(self, path: Path, access: Access) -> None:
        require_pickle(path, access)
        self.path, self._access = path, access

    @cached_property
    def _files(self) -> list[Path]:
        """The files of all processes, by rank."""
        held = _ranks(self.path)
        worlds = {world for world, _ in held}
        if len(worlds) != 1:
            raise self._broken(
                "the files of one save",
                f"files of world sizes {', '.join(map(str, sorted(worlds)))}",
                "keep those of one save in the folder",
            )
        (world,) = worlds
        missing = [rank for rank in range(world) if (world, rank) not in held]
        if missing or len(held) != world:
            raise self._broken(
                f"the files of {world} processes",
                f"none of rank {', '.join(map(str, missing))}" if missing else f"{len(held)} files",
                "fetch the files of all processes: each holds a part of every matrix",
            )
        return [own_file(self.path, held[world, rank]) for rank in range(world)]

    @cached_property
    def _first(self) -> State:
        """What the first process held, which has the name and the shape of every tensor."""
        state = mapped(self._files[0], self._access)
        _require_no_adapter(self.path, state)
        return state

    @cached_property
    def _states(self) -> list[State]:
        states = [mapped(file, self._access) for file in self._files]
        names = states[0].keys()
        other = next((rank for rank, state in enumerate(states) if state.keys() != names), None)
        if other is not None:
            name = sorted(states[other].keys() ^ names)[0]
            raise self._broken(
                "the same tensors in the files of all processes",
                f"{name!r} in one of ranks 0 and {other} alone",
                "save the checkpoint again: its files do not belong together",
            )
        return states

    def files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        return self._files

    def tensors(self) -> dict[str, TensorInfo]:
        """Everything stored, by name, without reading weights; shapes are those of the whole."""
        found = {}
        for name, held in sorted(self._first.items()):
            if isinstance(held, Tensor):
                known = _held(self._where(name), held, 0)
                found[name] = TensorInfo(name, known.shape, dtype_name(known.dtype))
        return found

    def left_out(self) -> dict[str, str]:
        """What the files hold beside tensors."""
        return {
            name: f"{type(held).__name__}: no tensor"
            for name, held in self._first.items()
            if not isinstance(held, Tensor)
        }

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a tensor joined from its shards, or entry `index` of its first axis."""
        where = self._where(name)
        ranks = [_held(where, state[name], rank) for rank, state in enumerate(self._states)]
        self._require_agreement(where, ranks)
        if not isinstance(self._first[name], DTensor):
            _require_equal(where, [held.local for held in ranks])
        boxes = {held.offsets: held for held in reversed(ranks) if held.local.numel()}
        parts = [
            Part(offsets, tuple(held.local.shape), held.local.detach)
            for offsets, held in sorted(boxes.items())
        ]
        require_whole(where, ranks[0].shape, parts)
        return joined(where, ranks[0].shape, ranks[0].dtype, parts, index)

    def digest(self) -> str:
        """Return the SHA-256 over the files of all processes, by rank."""
        return digest_of(self._files)

    def _where(self, name: str) -> str:
        return f"tensor {name!r} in {self.path}"

    def _require_agreement(self, where: str, ranks: Sequence[_Held]) -> None:
        said = {(held.shape, held.dtype) for held in ranks}
        if len(said) > 1:
            raise CheckpointError(
                where,
                expected="one shape and dtype in the files of all processes",
                found=" and ".join(f"{list(shape)} in {dtype}" for shape, dtype in said),
                do="save the checkpoint again: its files do not belong together",
            )

    def _broken(self, expected: str, found: str, do: str) -> CheckpointError:
        return CheckpointError(str(self.path), expected=expected, found=found, do=do)


def _ranks(path: Path) -> dict[tuple[int, int], str]:
    """The model files of a folder, by world size and rank."""
    if not path.is_dir():
        return {}
    found = (_RANK.fullmatch(file.name) for file in path.iterdir())
    return {(int(match[1]), int(match[2])): match[0] for match in found if match}


def _held(where: str, tensor: Tensor, rank: int) -> _Held:
    """What the process of a rank holds of a tensor.

    Raises:
        CheckpointError: If its placement is another one than shards and replicas, or is damaged.
    """
    if not isinstance(tensor, DTensor):
        shape = tuple(tensor.shape)
        return _Held(shape, tensor.dtype, (0,) * len(shape), tensor)
    try:
        spec = tensor._spec
        _require_known(where, spec.placements)
        if spec.tensor_meta is None:
            raise _misplaced(where, "no shape of the whole")
        shape = tuple(spec.tensor_meta.shape)
        # what torch before 2.9 pickled has the mesh itself where later ones compute it
        mesh = vars(spec.mesh).get("mesh")
        mesh = spec.mesh.mesh if mesh is None else mesh
        (place,) = (mesh == rank).nonzero().tolist()
        offsets, sizes = _box(shape, tuple(mesh.shape), place, spec.placements)
        local = tensor._local_tensor
    except CheckpointError:
        raise
    except Exception as error:
        raise _misplaced(where, f"{type(error).__name__}: {error}") from error
    if tuple(local.shape) != sizes:
        raise _misplaced(where, f"{list(local.shape)} where rank {rank} holds {list(sizes)}")
    return _Held(shape, local.dtype, offsets, local)


def _box(
    shape: tuple[int, ...],
    mesh: tuple[int, ...],
    place: Sequence[int],
    placements: Sequence[Placement],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the shard of one process begins and how large it is.

    An axis of the mesh that shards a dimension cuts what the axes before it left of it as
    `torch.chunk` does: into parts of the ceiling, the last of which are smaller or empty.
    """
    offsets, sizes = [0] * len(shape), list(shape)
    for count, at, placement in zip(mesh, place, placements, strict=True):
        if isinstance(placement, Shard):
            length = sizes[placement.dim]
            part = -(-length // count)
            begin = min(at * part, length)
            offsets[placement.dim] += begin
            sizes[placement.dim] = min(part, length - begin)
    return tuple(offsets), tuple(sizes)


def _require_known(where: str, placements: Sequence[Placement]) -> None:
    for placement in placements:
        if type(placement) not in (Shard, Replicate):
            raise CheckpointError(
                where,
                expected="shards and replicas",
                found=str(placement),
                do="merge the files with verl's own model_merger and measure what it writes",
            )


def _require_equal(where: str, copies: Sequence[Tensor]) -> None:
    """What is stored whole by every process is the same in all of them, or not whole at all."""
    if not all(torch.equal(copies[0], copy) for copy in copies[1:]):
        raise CheckpointError(
            where,
            expected="shards that say where they lie, or equal copies",
            found=f"{len(copies)} different tensors without a placement",
            do="merge the files with verl's own model_merger and measure what it writes",
        )


def _require_no_adapter(path: Path, state: State) -> None:
    name = next((name for name in sorted(state) if ".lora_A." in name), None)
    if name is not None:
        raise CheckpointError(
            str(path),
            expected="the weights of the model",
            found=f"an adapter inside them, as {name!r}",
            do=f"measure the adapter that verl saves beside them: {path / 'lora_adapter'}",
        )


def _misplaced(where: str, found: str) -> CheckpointError:
    return CheckpointError(
        where,
        expected="a shard with its place in the whole",
        found=found,
        do="fetch the files again: they are damaged, or by a version of torch that is not known",
    )
