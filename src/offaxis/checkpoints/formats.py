"""Every checkpoint format there is, and the one place where a checkpoint is opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from offaxis.checkpoints.access import SAFE, Access
from offaxis.checkpoints.adapters import AdapterFolder
from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.errors import CheckpointError


@runtime_checkable
class Format(Protocol):
    """How the folders of one format are told, and opened."""

    NAME: str

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


class _Adapter:
    NAME = "adapter"

    def recognises(self, path: Path) -> bool:
        return AdapterFolder.recognises(path)

    def open(self, path: Path, access: Access, base: Path | None) -> CheckpointReader:
        if SafetensorsFolder.recognises(path):
            raise CheckpointError(
                str(path),
                expected="a model or an adapter",
                found="both in one folder, so that it is not told which is meant",
                do="move one of them into a folder of its own",
            )
        if base is None or base.resolve() == path.resolve():
            return AdapterFolder(path, access, None)
        return AdapterFolder(path, access, open_checkpoint(base, access))


FORMATS: Sequence[Format] = (_Adapter(), _Safetensors())
"""In the order in which a folder is tried."""


def format_of(path: Path) -> Format | None:
    """The format of a folder, or None where it is none that is known."""
    return next((known for known in FORMATS if known.recognises(path)), None)


def open_checkpoint(
    path: Path, access: Access = SAFE, base: Path | None = None
) -> CheckpointReader:
    """Open a checkpoint in whichever known format it has.

    Args:
        path: The folder.
        access: What the user allows, and the base of adapters where it is given.
        base: The base otherwise: the anchor.

    Raises:
        CheckpointError: If it cannot be read, or not with this access.
    """
    return (format_of(path) or _Safetensors()).open(path, access, access.base or base)
