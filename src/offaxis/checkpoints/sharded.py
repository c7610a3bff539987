"""The index of weights in several files: which tensor lies in which of them."""

from collections.abc import Mapping
from pathlib import Path

from offaxis.checkpoints.trust.documents import read_object
from offaxis.errors import CheckpointError

_MOST_SHARDS = 10_000


def weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor.

    Raises:
        CheckpointError: If the file is no index, lies elsewhere, or names more files than any
            trainer writes.
    """
    mapping = read_object(index.parent, index.name).get("weight_map")
    if not isinstance(mapping, dict) or not all(type(shard) is str for shard in mapping.values()):
        raise _no_index(index, "none, or one of other things")
    shards = len(set(mapping.values()))
    if shards > _MOST_SHARDS:
        raise _no_index(index, f"{shards:,} shards")
    return mapping


def _no_index(index: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(index),
        expected=f'a "weight_map" from tensor names to at most {_MOST_SHARDS:,} shard files',
        found=found,
        do="restore the index that was saved with the shards",
    )


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
