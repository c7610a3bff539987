"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are then not kept apart
    fcntl = None  # type: ignore[assignment]

from offaxis.errors import OffaxisError, ResultsError

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
"""Tells the processes of this machine from those of others that share the folder."""

_DISK_WORDS = ("os error", "pytorchstreamwriter", "inline_container", "file write failed")

_LITTLE_BYTES = 1_000_000
"""With less than this free, a write that failed without a reason failed for want of space."""


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to fill, and rename it into place after the block.

    Args:
        path: The file that shall exist afterwards; its folder is made when missing.

    Raises:
        ResultsError: If the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OffaxisError:
        raise
    except OSError as error:
        raise _explained(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # what hindered writing may hinder this, too
            temporary.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Wait until the files of a folder are on the disk, not only promised to it.

    A folder that is renamed before may be found full of empty files after a loss of power.
    """
    for path in (*folder.rglob("*"), folder):
        if path.is_dir() and os.name == "nt":
            continue  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Explain what writers of tensors say of a full or broken disk.

    safetensors and torch raise errors of their own, some without the system's words.

    Raises:
        ResultsError: If the disk is full or cannot be written.
    """
    try:
        yield
    except OffaxisError:
        raise
    except OSError as error:
        raise _explained(path, error) from error
    except Exception as error:
        said = str(error).lower()
        if not any(word in said for word in _DISK_WORDS):
            raise
        full = "no space" in said or shutil.disk_usage(path.parent).free < _LITTLE_BYTES
        number = errno.ENOSPC if full else errno.EIO
        raise _explained(path, OSError(number, os.strerror(number))) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: `atomically` in one call."""
    with atomically(path) as temporary:
        write(temporary)


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


@contextlib.contextmanager
def exclusively(lock: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a lock that other processes wait for; a crash frees it.

    Args:
        lock: The file that is locked; it is made when missing, and stays.
        waiting: Called once where another process holds the lock.

    Raises:
        ResultsError: If the file cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise _explained(lock, error) from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files below a folder that dead processes of this machine have left."""
    for path in folder.rglob(".*.partial"):
        *_, host, owner, _ = path.name.split(".")
        if host == _HOST and owner.isdecimal() and not _is_alive(int(owner)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
