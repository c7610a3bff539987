"""What names a model of the hub."""

import re
from pathlib import Path
from typing import NamedTuple

_ID = re.compile(r"(\w[\w.-]{0,95}/\w[\w.-]{0,95})@([\w./-]{1,200})", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubId(NamedTuple):
    """A repository and a revision of it: a branch, a tag or a commit."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @classmethod
    def read(cls, text: str) -> "HubId | None":
        """What a text of the form `org/name@revision` names; None for others."""
        match = _ID.fullmatch(text)
        return None if match is None or ".." in text else cls(match[1], match[2])

    @classmethod
    def of(cls, path: Path) -> "HubId | None":
        """What a path of that form names, where nothing is there."""
        return None if path.exists() else cls.read(path.as_posix())

    @property
    def is_commit(self) -> bool:
        """Whether the revision can never be another one."""
        return COMMIT.fullmatch(self.revision) is not None


def name_in_cache(folder: Path) -> str | None:
    """The repository's name (without its owner) where a folder holds snapshots of the cache."""
    owner = folder.parent.name
    is_cache = folder.name == "snapshots" and owner.startswith("models--")
    return owner.rpartition("--")[2] if is_cache else None
