"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from offaxis.errors import ResultsError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Args:
        path: The file that shall exist afterwards; its folder is made when missing.
        write: Called once with the temporary path.

    Raises:
        ResultsError: If the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _explained(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _explained(path: Path, error: OSError) -> ResultsError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    return ResultsError(
        str(path),
        expected="a folder that can be written, with room for the file",
        found="no space left on the device" if full else str(error),
        do="free some space (what was finished is kept) and run the same command again"
        if full
        else "check the folder and its permissions, then run the same command again",
    )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
