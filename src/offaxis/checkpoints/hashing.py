"""One hash for the files of a checkpoint."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from offaxis.errors import CheckpointError


def digest_of(files: Sequence[Path], folder: Path | None = None) -> str:
    """Return a SHA-256 over files, in the order given.

    Args:
        files: Weight files.
        folder: Where names of files say what they hold, the folder that the names are taken from:
            then files of other names have another digest.

    Raises:
        CheckpointError: If one of them cannot be read.
    """
    total = hashlib.sha256()
    for file in files:
        if folder is not None:
            total.update(hashlib.sha256(str(file.relative_to(folder)).encode()).digest())
        try:
            with file.open("rb") as handle:
                total.update(hashlib.file_digest(handle, "sha256").digest())
        except OSError as error:
            raise CheckpointError(
                str(file),
                expected="a file that can be read whole",
                found=str(error),
                do="check the file and the disk that it lies on",
            ) from error
    return total.hexdigest()
