"""Names of tensors: how long, how many, and made of what."""

from collections.abc import Collection
from pathlib import Path

from offaxis.errors import CheckpointError

MOST_TENSORS = 1 << 18
"""Four times those of the largest models with a tensor for every expert."""

LONGEST = 1024


def require_names(names: Collection[str], where: Path) -> None:
    """Refuse more tensors than any model has, and names that no model gives.

    Names with HTML or markup are left as they are: nothing that prints them reads it.

    Raises:
        CheckpointError: If there are too many, or one is empty, too long or not printable.
    """
    require_count(len(names), where)
    for name in names:
        if not 0 < len(name) <= LONGEST:
            raise _refused(where, f"a name of {len(name):,} characters: {name[:40]!r}")
        if not name.isprintable():
            raise _refused(where, f"the name {name[:80]!r}, which is not printable")


def require_count(count: int, where: Path) -> None:
    """Refuse more tensors than any model has.

    Raises:
        CheckpointError: If there are too many.
    """
    if count > MOST_TENSORS:
        raise _refused(where, f"{count:,} tensors")


def _refused(where: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(where),
        expected=f"at most {MOST_TENSORS:,} tensors with printable names of up to {LONGEST:,}"
        " characters",
        found=found,
        do="do not trust this checkpoint: no trainer saves such names",
    )
