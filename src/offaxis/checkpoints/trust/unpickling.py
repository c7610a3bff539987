"""An unpickler for `.metadata` alone: every name it may find is listed here.

What is found are stand-ins that do nothing, so that a pickle becomes passive data.
"""

import io
import pickle
import pickletools
import warnings
from collections.abc import Callable
from functools import partial

import torch

from offaxis.checkpoints.trust.pickles import DTYPES

METADATA = ".metadata"
"""The file that names and describes all others of a distributed checkpoint."""

_CLASSES = "torch.distributed.checkpoint.metadata"
_RECORDS = {
    f"{_CLASSES}.Metadata",
    f"{_CLASSES}.MetadataIndex",
    f"{_CLASSES}.TensorStorageMetadata",
    f"{_CLASSES}.BytesStorageMetadata",
    f"{_CLASSES}.ChunkStorageMetadata",
    f"{_CLASSES}.TensorProperties",
    f"{_CLASSES}.StorageMeta",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
}
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_ENCODINGS = {
    f"{_CLASSES}._MEM_FORMAT_ENCODING",
    "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
}
_PATHS = {
    f"{module}.{kind}"
    for module in ("pathlib", "pathlib._local")
    for kind in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
}

_MOST_AXES = 16


class StrangeError(Exception):
    """A name that is not listed, or a value that has not its type."""


class Record:
    """What a pickle says of an object: its state, whatever it is."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def unpickle(pickled: bytes) -> object:
    """Return what a pickle of listed names holds, with records in the place of objects.

    Raises:
        StrangeError: If it finds another name, or asks for more memory than it has bytes.
        Exception: Whatever a damaged pickle makes the standard library raise.
    """
    with warnings.catch_warnings(action="error"):  # escapes that no pickler writes
        _require_modest_memo(pickled)
        return _Unpickler(io.BytesIO(pickled)).load()


def _require_modest_memo(pickled: bytes) -> None:
    """The standard library makes room up to any index that a pickle puts into its memo."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in _PUTS and int(argument or 0) > len(pickled):
            raise StrangeError(f"a memo of {argument:,} entries")


class _Unpickler(pickle.Unpickler):
    """Finds listed names alone, and for each of them something that does nothing.

    The stand-ins are made anew for every file, so that no file can change them for the next.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._known: dict[str, object] = {}

    def find_class(self, module_name: str, global_name: str) -> object:
        name = f"{module_name}.{global_name}"
        if name not in self._known:
            self._known[name] = _stand_in(name)
        return self._known[name]


def _stand_in(name: str) -> object:
    if name in _RECORDS:
        return type(name.rpartition(".")[2], (Record,), {})
    if name in DTYPES:
        return DTYPES[name]
    return _caller(name)


def _caller(name: str) -> Callable[..., object]:
    """What a pickle may call; nothing that it returns is larger than what it was given."""
    if name == "torch.Size":
        return partial(_axes)
    if name == "torch.serialization._get_layout":
        return lambda _name: torch.strided
    if name in _ENCODINGS:
        return lambda _number: torch.contiguous_format
    if name in _PATHS:
        return lambda *_parts: ""
    raise StrangeError(f"{name}; nothing of it was run")


def _axes(values: object) -> tuple[object, ...]:
    if not isinstance(values, tuple) or len(values) > _MOST_AXES:
        raise StrangeError("the sizes of something that is no tensor")
    return values
