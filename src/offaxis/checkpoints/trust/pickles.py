"""Pickled weights, opened where the user allows it and through `weights_only=True` alone."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.trust.archives import check_archive, globals_of
from offaxis.checkpoints.trust.names import require_names
from offaxis.errors import CheckpointError

DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
"""Every dtype of torch by its name, as `torch.bfloat16`."""

_SHARDS = {
    "torch.distributed.tensor": ("DTensor",),
    "torch.distributed.tensor._dtensor_spec": ("DTensorSpec", "ShardOrderEntry", "TensorMeta"),
    "torch.distributed.tensor.placement_types": ("Partial", "Replicate", "Shard", "_StridedShard"),
    "torch.distributed.device_mesh": ("DeviceMesh",),
    "torch.distributed._mesh_layout": ("_FlatLayout", "_MeshLayout"),
}

_ALLOWED = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "torch.storage.UntypedStorage",
    "torch._tensor._rebuild_from_type_v2",
    *(f"torch._utils._rebuild_{kind}" for kind in ("parameter", "parameter_with_state")),
    *(f"torch._utils._rebuild_{kind}" for kind in ("tensor_v2", "tensor_v3", "wrapper_subclass")),
    *(f"torch.{kind.__name__}" for kind in torch._storage_classes),
    *(f"{module}.{name}" for module, names in _SHARDS.items() for name in names),
    *DTYPES,
}
"""What weights are made of; narrower than torch's own list, which has types that allocate."""


ALLOW = "add --allow-pickle: they are opened through weights_only=True alone"

_LONGEST_SAID = 200
_MESHES = logging.getLogger("torch.distributed.device_mesh")


def load_pickle(file: Path, access: Access) -> object:
    """Read the tensors that `torch.save` wrote, as views of the mapped file.

    Args:
        file: An archive of `torch.save`.
        access: What the user allows.

    Raises:
        CheckpointError: If pickles are not allowed, the archive would unpack to more than it has,
            it names anything but tensors and their containers, or it is damaged.
    """
    require_pickle(file, access)
    _require_known(file, check_archive(file))
    held = _load(file, file)
    names, tensors = _inside(held)
    require_names(names, file)
    for tensor in tensors:
        _require_backed(file, tensor)
    return held


def load_payload(file: Path, offset: int, length: int) -> Tensor:
    """Read one tensor that `torch.save` wrote into a stretch of a file, as distributed ones are.

    Args:
        file: A file of a distributed checkpoint.
        offset: Where the stretch begins, in bytes.
        length: Its bytes.

    Raises:
        CheckpointError: As `load_pickle` does, or if it is no single tensor.
    """
    try:
        with file.open("rb") as handle:
            handle.seek(offset)
            part = BytesIO(handle.read(length))
    except OSError as error:
        raise CheckpointError(
            str(file), expected="a file that can be read", found=str(error), do="check the file"
        ) from error
    _require_known(file, check_archive(file, part))
    part.seek(0)
    held = _load(file, part)
    if type(held) is not Tensor:
        raise CheckpointError(
            str(file),
            expected=f"one tensor at byte {offset:,}",
            found=f"a {type(held).__name__}",
            do="save the checkpoint again with torch.distributed.checkpoint",
        )
    _require_backed(file, held)
    return held


def require_pickle(path: Path, access: Access) -> None:
    """Check that the user allows pickles.

    Raises:
        CheckpointError: If not, with the flag that does.
    """
    if not access.pickle:
        raise CheckpointError(
            str(path),
            expected="weights that are not pickled",
            found="a pickle, in which a stranger could have put code",
            do=ALLOW,
        )


def _require_known(file: Path, pickled: bytes) -> None:
    strange = sorted(globals_of(file, pickled) - _ALLOWED)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise CheckpointError(
            str(file),
            expected="a pickle of tensors and their containers alone",
            found=f"{strange[0]}{more}; nothing of it was run",
            do="do not trust this file, or save its weights again with safetensors",
        )


def _load(file: Path, source: Path | BytesIO) -> object:
    # Its shards are known to `weights_only` from here on; it is slow to import.
    importlib.import_module("torch.distributed.tensor")
    try:
        with warnings.catch_warnings(action="ignore"), _unsaid(_MESHES):
            is_file = isinstance(source, Path)
            return torch.load(source, weights_only=True, mmap=is_file, map_location="cpu")
    except Exception as error:  # whatever damaged bytes make of torch
        raise CheckpointError(
            str(file),
            expected="a whole archive of torch.save",
            found=_said(error),
            do="copy the file again, or save its weights again with safetensors",
        ) from error


def _said(error: Exception) -> str:
    """What torch found, without its advice to load the file without a fence."""
    found = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    lines = [line.strip() for line in found.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:_LONGEST_SAID]}" if lines else type(error).__name__


@contextmanager
def _unsaid(logger: logging.Logger) -> Iterator[None]:
    """Leave out what torch says of a mesh whose processes are not here, as they never are."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _inside(held: object) -> tuple[list[str], list[Tensor]]:
    """Every name and every tensor in nested containers, each container once."""
    names, tensors, waiting, seen = list[str](), list[Tensor](), [held], set[int]()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, dict):
            names.extend(key for key in item if isinstance(key, str))
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set):
            waiting.extend(item)
    return names, tensors


def _require_backed(file: Path, tensor: Tensor) -> None:
    local = getattr(tensor, "_local_tensor", tensor)  # of a shard
    if local.numel() * local.element_size() > local.untyped_storage().nbytes():
        raise CheckpointError(
            str(file),
            expected="tensors as large as the bytes they have",
            found=f"shape {list(local.shape)} over {local.untyped_storage().nbytes():,} bytes",
            do="do not trust this file, or save its weights again, made contiguous",
        )
