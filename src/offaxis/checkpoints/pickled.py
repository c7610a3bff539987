"""State dicts in pickled files, mapped into memory: only what is read of them is loaded."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.trust import load_pickle
from offaxis.errors import CheckpointError

State = dict[str, Any]

_FILES = 256  # kept open; a trajectory's files are gone through once for every matrix


def mapped(file: Path, access: Access) -> State:
    """What a pickled file holds by name, its tensors not yet read.

    Raises:
        CheckpointError: If pickles are not allowed, or it is not a dictionary with names.
    """
    return _mapped(file, access, as_of(file))


def as_of(file: Path) -> tuple[int, int, int]:
    """The state that a file is in: its inode, size and time.

    Raises:
        CheckpointError: If there is no such file.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise CheckpointError(
            str(file), expected="a file that can be read", found=str(error), do="check the file"
        ) from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=_FILES)
def _mapped(file: Path, access: Access, state: tuple[int, int, int]) -> State:
    """Load a file once for as long as it stays as it is."""
    held = load_pickle(file, access)
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise CheckpointError(
            str(file),
            expected="a dictionary of tensors by their names",
            found=type(held).__name__,
            do="save the model's state_dict() alone",
        )
    return held


def info_of(name: str, tensor: Tensor) -> TensorInfo:
    """What a tensor's header says."""
    return TensorInfo(name, tuple(tensor.shape), dtype_name(tensor.dtype))


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name in torch, as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def read(tensor: Tensor, index: int | None) -> Tensor:
    """Copy a mapped tensor, or entry `index` of its first axis, into memory of its own."""
    part = tensor if index is None else tensor[index]
    return part.detach().clone(memory_format=torch.contiguous_format)
