"""JSON that a checkpoint brings: its size is capped, and no key is there twice."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from offaxis.checkpoints.trust.places import own_file
from offaxis.errors import CheckpointError

LARGEST = 1 << 25
"""Bytes; the index of a model with 250,000 tensors is as large."""


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object from a file of the folder.

    Raises:
        CheckpointError: If it does not lie in the folder, is too large, damaged, no object, or has
            a key twice, of which two readers may take two different ones.
    """
    file = own_file(folder, name, deep=True)
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{size:,} bytes, more than the {LARGEST:,} that are read")
        return parse_object(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(file),
            expected="a JSON object without double keys",
            found=str(error),
            do="restore the file that was saved with this checkpoint",
        ) from error


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: If it is none, or has a key twice at any depth.
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError as error:
        raise ValueError("values nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}")
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {double!r} twice")
    return found
