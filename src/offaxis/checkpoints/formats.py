"""Every checkpoint format there is, and the one place where a checkpoint is opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from offaxis.checkpoints.access import SAFE, Access
from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.bin_folder import BinFolder
from offaxis.checkpoints.deepspeed import UniversalFolder
from offaxis.checkpoints.quantised import as_floats
from offaxis.checkpoints.refusals import REFUSED, Refused, unknown
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder


@runtime_checkable
class Format(Protocol):
    """How the folders of one format are told, and opened."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a constant
        """What it is called."""

    def recognises(self, path: Path) -> bool:
        """Whether a folder has this format, by the names of its files alone."""

    def open(self, path: Path, access: Access, base: Path | None) -> CheckpointReader:
        """Open a folder of this format.

        Args:
            path: The folder.
            access: What the user allows.
            base: The folder of the anchor, for formats that hold updates of it.

        Raises:
            CheckpointError: If it cannot be read, or not with this access.
        """


class _Safetensors:
    NAME = "safetensors"

    def recognises(self, path: Path) -> bool:
        return SafetensorsFolder.recognises(path)

    def open(self, path: Path, access: Access, base: Path | None) -> CheckpointReader:
        return SafetensorsFolder(path)


class _Bin:
    NAME = "pytorch_model.bin"

    def recognises(self, path: Path) -> bool:
        return BinFolder.recognises(path)

    def open(self, path: Path, access: Access, base: Path | None) -> CheckpointReader:
        return BinFolder(path, access)


class _Distributed:
    NAME = "torch distributed checkpoint"

    def recognises(self, path: Path) -> bool:
        return (path / ".metadata").is_file()

    def open(self, path: Path, access: Access, base: Path | None) -> CheckpointReader:
        from offaxis.checkpoints.distributed import DistributedFolder  # noqa: PLC0415 - slow

        return DistributedFolder(path)


class _Verl:
    NAME = "verl's FSDP files"

    def recognises(self, path: Path) -> bool:
        return next(path.glob("model_world_size_*_rank_*.pt"), None) is not None

    def open(self, path: Path, access: Access, base: Path | None) -> CheckpointReader:
        from offaxis.checkpoints.verl import VerlFolder  # noqa: PLC0415 - slow

        return VerlFolder(path, access)


class _Universal:
    NAME = "DeepSpeed's universal checkpoint"

    def recognises(self, path: Path) -> bool:
        return UniversalFolder.recognises(path)

    def open(self, path: Path, access: Access, base: Path | None) -> CheckpointReader:
        return UniversalFolder(path, access)


FORMATS: Sequence[Format] = (
    _Safetensors(),
    _Bin(),
    _Verl(),
    _Universal(),
    *REFUSED,
    _Distributed(),
)
"""In the order in which a folder is tried; Megatron's distributed checkpoints are refused before
they are taken for torch's."""


def format_of(path: Path) -> Format | None:
    """The format of a folder, or None where it is none that is known."""
    return next((known for known in FORMATS if known.recognises(path)), None)


def is_readable(path: Path) -> bool:
    """Whether a folder has a format that is read, not one that is refused."""
    found = format_of(path)
    return found is not None and not isinstance(found, Refused)


def open_checkpoint(
    path: Path, access: Access = SAFE, base: Path | None = None
) -> CheckpointReader:
    """Open a checkpoint in whichever known format it has.

    Raises:
        CheckpointError: If it cannot be read, or not with this access.
    """
    found = format_of(path)
    if found is None:
        raise unknown(path)
    return as_floats(found.open(path, access, base), access)
