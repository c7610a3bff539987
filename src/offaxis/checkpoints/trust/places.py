"""Which files belong to a checkpoint's folder; names and links that lead out of it are refused."""

import os
import re
from pathlib import Path

from offaxis.errors import CheckpointError

_BLOB = re.compile(r"[0-9a-f]+")
_LONGEST_NAME = 255


def own_file(folder: Path, name: str, *, where: Path | None = None, deep: bool = False) -> Path:
    """Return a file that really lies in a folder.

    The Hub's cache keeps the bytes of `snapshots/REVISION/NAME` in `blobs/HASH` beside
    `snapshots`; such links are followed.

    Args:
        folder: The checkpoint's folder.
        name: The file's name, as the checkpoint gives it.
        where: The file that gives the name, if another one does.
        deep: Whether the name may lead into folders below this one, as `a/b`.

    Raises:
        CheckpointError: If the name or a link leads out of the folder, or there is no such file.
    """
    file = folder / name if _is_plain(name, deep) else None
    if file is None or not _lies_in(folder, file):
        raise CheckpointError(
            str(where or (folder if file is None else file)),
            expected="weights that lie in the checkpoint's own folder",
            found=f"the name {name!r}" if file is None else f"a link to {os.path.realpath(file)}",
            do="do not trust this checkpoint, or copy its weights into the folder",
        )
    if not file.is_file():
        raise CheckpointError(
            str(file),
            expected="a file of this checkpoint" + (f", which {where.name} names" if where else ""),
            found="no such file",
            do="fetch the missing file, or save the checkpoint again",
        )
    return file


def own_folder(folder: Path, child: Path) -> Path:
    """Return a folder that really lies in another one.

    Raises:
        CheckpointError: If it is a link that leads out, to what was not given to be read.
    """
    if not _lies_in(folder, child):
        raise CheckpointError(
            str(child),
            expected="weights that lie in the folder that was given",
            found=f"a link to {os.path.realpath(child)}",
            do="give the folder that it leads to, or copy it here",
        )
    return child


def _is_plain(name: str, deep: bool) -> bool:
    parts = name.split("/")
    return (len(parts) == 1 or deep) and all(
        part not in ("", ".", "..")
        and len(part.encode("utf-8", "replace")) <= _LONGEST_NAME
        and part.isprintable()
        and not {"\\", ":"} & set(part)
        for part in parts
    )


def _lies_in(folder: Path, file: Path) -> bool:
    try:
        home, real = folder.resolve(), file.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
    if real.is_relative_to(home):
        return True
    blobs = [above.parent / "blobs" for above in home.parents if above.name == "snapshots"]
    return real.parent in blobs and _BLOB.fullmatch(real.name) is not None
