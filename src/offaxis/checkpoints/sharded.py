"""The index of weights in several files: which tensor lies in which of them."""

import json
from collections.abc import Mapping
from pathlib import Path

from offaxis.errors import CheckpointError


def weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor.

    Raises:
        CheckpointError: If the file is no index.
    """
    try:
        mapping = json.loads(index.read_text("utf-8"))["weight_map"]
        return {str(name): str(shard) for name, shard in mapping.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            str(index),
            expected='a JSON object with a "weight_map" from tensor names to shard files',
            found=f"{type(error).__name__}: {error}",
            do="restore the index that was saved with the shards",
        ) from error


def require_once(name: str, folder: Path, first: Path | None, second: Path) -> None:
    """Check that a tensor has not been found in another shard before.

    Raises:
        CheckpointError: If it has.
    """
    if first is not None:
        raise CheckpointError(
            f"tensor {name!r} in {folder}",
            expected="each tensor once",
            found=f"it in {first.name} and in {second.name}",
            do="save the checkpoint again: one of the two is left over from another save",
        )


def require_as_indexed(index: Path, mapping: Mapping[str, str], held: Mapping[str, Path]) -> None:
    """Check that every tensor is in the shard that the index names for it, and in no other.

    Raises:
        CheckpointError: If one is not.
    """
    found = {name: file.name for name, file in held.items()}
    wrong = sorted(
        name for name in found.keys() | mapping.keys() if found.get(name) != mapping.get(name)
    )
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"tensor {name!r}, {index}",
            expected=f"it in {mapping.get(name, 'no shard')}",
            found=f"it in {found.get(name, 'no shard')}"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
            do="save the checkpoint again: index and shards do not belong together",
        )
