"""The hashes of checkpoints, remembered for as long as their files stay as they were."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from offaxis.checkpoints.access import SAFE, Access
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.files import write_text

_SETTLED_NS = 2_000_000_000
"""A file changed later than this before it was hashed might change again at the same time stamp:
file systems count time in steps of up to two seconds."""

State = list[list[Any]]


class Hashed(NamedTuple):
    """A digest, and the state that the files were in before it was taken, at a time."""

    digest: str
    state: State
    time_ns: int


def hash_checkpoint(path: Path, access: Access = SAFE) -> Hashed:
    """Read a checkpoint's files whole.

    Raises:
        CheckpointError: If they cannot be read.
    """
    state, now = _state(path, access), time.time_ns()
    return Hashed(open_checkpoint(path, access).digest(), state, now)


def remembered(memory: Path, paths: Iterable[Path], access: Access = SAFE) -> dict[Path, str]:
    """The digests of those checkpoints whose files are as they were when they were hashed."""
    held = _load(memory)
    found = {}
    for path in paths:
        entry = held.get(str(path.resolve()))
        if isinstance(entry, dict) and entry.get("state") == _state(path, access):
            found[path] = str(entry.get("sha256"))
    return found


def remember(memory: Path, hashed: Iterable[tuple[Path, Hashed]], access: Access = SAFE) -> None:
    """Keep digests for the next time, of files that were at rest.

    Raises:
        ResultsError: If they cannot be written.
    """
    settled = {
        str(path.resolve()): {"state": found.state, "sha256": found.digest}
        for path, found in hashed
        if found.state == _state(path, access)
        and _newest(found.state) < found.time_ns - _SETTLED_NS
    }
    if settled:
        write_text(memory, json.dumps(_load(memory) | settled, indent=1, sort_keys=True) + "\n")


def _state(path: Path, access: Access) -> State:
    """Each weight file's place, inode, size and times; the last of them no program can set."""
    stats = [(file.resolve(), file.stat()) for file in open_checkpoint(path, access).files()]
    return [[str(f), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for f, s in stats]


def _newest(state: State) -> int:
    newest: int = max(max(file[3:]) for file in state)
    return newest


def _load(memory: Path) -> dict[str, Any]:
    """What is remembered; nothing where the file is missing or damaged."""
    try:
        held = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
