"""The tensors of an adapter's file, in safetensors or pickled."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.checkpoints.trust import load_pickle, own_file
from offaxis.errors import CheckpointError

SINGLE = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"


@runtime_checkable
class Stored(Protocol):
    """What an adapter's tensors are read through."""

    def files(self) -> Sequence[Path]:
        """The files that hold them."""

    def tensors(self) -> dict[str, TensorInfo]:
        """All of them, by name."""

    def read(self, name: str, index: int | None = None) -> Tensor:
        """One of them, or entry `index` of its first axis."""

    def digest(self) -> str:
        """A hash of their files."""


class Pickled:
    """Those of `adapter_model.bin`."""

    def __init__(self, file: Path, access: Access) -> None:
        self._file, self._access = file, access

    @cached_property
    def _held(self) -> dict[str, Tensor]:
        held = load_pickle(self._file, self._access)
        if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
            raise CheckpointError(
                str(self._file),
                expected="a dictionary of tensors",
                found=type(held).__name__,
                do="save the adapter again with PEFT's save_pretrained",
            )
        return {str(name): tensor for name, tensor in held.items()}

    def files(self) -> Sequence[Path]:
        """The one file."""
        return [self._file]

    def tensors(self) -> dict[str, TensorInfo]:
        """All tensors, by name."""
        return {
            name: TensorInfo(name, tuple(W.shape), str(W.dtype).removeprefix("torch."))
            for name, W in self._held.items()
        }

    def read(self, name: str, index: int | None = None) -> Tensor:
        """A tensor, or entry `index` of its first axis."""
        return self._held[name] if index is None else self._held[name][index]

    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        with self._file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()


def open_stored(path: Path, access: Access) -> Stored:
    """Open an adapter's tensors; safetensors go before a pickle, as in PEFT."""
    if (path / SINGLE).is_file() or not (path / PICKLED).is_file():
        return SafetensorsFolder(path, SINGLE)
    return Pickled(own_file(path, PICKLED), access)
