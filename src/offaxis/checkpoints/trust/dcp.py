"""The `.metadata` of torch's distributed checkpoints, which torch reads with a bare `pickle.load`.

Here it becomes passive data, and torch's classes only once every value has been found to have its
type and every claim to fit the files' bytes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from offaxis.checkpoints.trust.places import own_file
from offaxis.checkpoints.trust.unpickling import METADATA, StrangeError, unpickle
from offaxis.errors import CheckpointError, OffaxisError

if TYPE_CHECKING:
    import torch.distributed.checkpoint.metadata

LARGEST = 1 << 28
"""Bytes; those of two million pieces of tensors are as many."""


def read_dcp_metadata(folder: Path) -> "torch.distributed.checkpoint.metadata.Metadata":
    """Read what a distributed checkpoint holds, and where.

    No name in it is imported beyond those listed in `unpickling`; every file it points to lies in
    the folder; every piece of a tensor lies in its tensor and has its bytes in its file.

    Args:
        folder: The folder with `.metadata` in it.

    Returns:
        Torch's own description. `planner_data` holds the keys that a flat name was made of;
        `storage_meta` is empty.

    Raises:
        CheckpointError: If it names anything that is not listed, leads out of the folder, is
            damaged, too large, or claims more than the files hold.
    """
    from offaxis.checkpoints.trust.records import described  # noqa: PLC0415 - slow to import

    file = own_file(folder, METADATA)
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise StrangeError(f"{size:,} bytes, more than the {LARGEST:,} that are read")
        return described(folder, unpickle(file.read_bytes()))
    except OffaxisError:
        raise
    except StrangeError as error:
        raise _refused(file, str(error)) from error
    except Exception as error:  # whatever damaged bytes make of the standard library
        raise _refused(file, f"{type(error).__name__}: {error}") from error


def _refused(file: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(file),
        expected="the description that torch.distributed.checkpoint writes, and nothing else",
        found=found,
        do="do not trust this checkpoint, or save it again with torch.distributed.checkpoint",
    )
