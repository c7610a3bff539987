"""Archives of `torch.save`, before they are opened: what they hold, and what it would unpack to."""

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from io import SEEK_END, BytesIO
from pathlib import Path

from offaxis.errors import CheckpointError

LARGEST_PICKLE = 1 << 26
"""Bytes of the pickle in an archive; that of a model with 100,000 tensors is below 20 MB."""

_MOST_RECORDS = 1 << 20


def check_archive(file: Path, part: BytesIO | None = None) -> bytes:
    """Return the pickle of an archive whose records are as large as the bytes they have.

    `torch.save` stores its records without compression, so that nothing unpacks to more than the
    file; an archive that says otherwise is not opened.

    Args:
        file: The file, which errors name.
        part: The archive, where it is a stretch of the file.

    Raises:
        CheckpointError: If it is no such archive, or unpacks to more than it has.
    """
    try:
        size = file.stat().st_size if part is None else part.seek(0, SEEK_END)
        with zipfile.ZipFile(file if part is None else part) as archive:
            records = archive.infolist()
            _require_stored(file, records, size)
            return archive.read(_pickle_of(file, records))
    except CheckpointError:  # an OSError too
        raise
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError) as error:
        raise _no_archive(file, str(error)) from error
    except OSError as error:
        raise CheckpointError(
            str(file), expected="a file that can be read", found=str(error), do="check the file"
        ) from error


def globals_of(file: Path, pickled: bytes) -> set[str]:
    """The names, as `module.name`, that a pickle would import; it is read, not run.

    Raises:
        CheckpointError: If it is no pickle.
    """
    try:
        with warnings.catch_warnings(action="error"):  # escapes that no pickler writes
            return set(_globals(pickled))
    except (ValueError, IndexError, OverflowError, UnicodeError, Warning) as error:
        raise _no_archive(file, f"a damaged pickle: {error}") from error


def _globals(pickled: bytes) -> Iterator[str]:
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in ("GLOBAL", "INST"):
            yield ".".join(str(argument).split(" ", 1))
        elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield f"a name by {operation.name}, which torch.save does not write"


def _require_stored(file: Path, records: list[zipfile.ZipInfo], size: int) -> None:
    packed = next((r for r in records if r.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise _bomb(file, f"{packed.filename!r}, which unpacks to {packed.file_size:,} bytes")
    total = sum(record.file_size for record in records)
    if total > size:
        raise _bomb(file, f"records of {total:,} bytes in a file of {size:,}")
    if len(records) > _MOST_RECORDS:
        raise _bomb(file, f"{len(records):,} records")


def _pickle_of(file: Path, records: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    found = [r for r in records if r.filename.split("/", 1)[-1] == "data.pkl"]
    if len(found) != 1:
        raise _no_archive(file, f"{len(found)} records named data.pkl")
    if found[0].file_size > LARGEST_PICKLE:
        raise _bomb(file, f"a pickle of {found[0].file_size:,} bytes")
    return found[0]


def _bomb(file: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(file),
        expected="an archive of torch.save: records as they are, none compressed",
        found=found,
        do="do not trust this file, or save it again with torch.save",
    )


def _no_archive(file: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(file),
        expected="an archive of torch.save in the format of torch 1.6 and later",
        found=found,
        do="copy the file again, or save the weights again with safetensors or torch.save",
    )
