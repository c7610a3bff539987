"""What of its models a measurement covers, for the plan, the manifest and the page."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from offaxis.checkpoints.pairing import Pairing

T = TypeVar("T")

Covered = dict[str, Any]
"""The coverage of one run or of several, as the manifest holds it."""

_LISTS = ("renamed", "resized", "only_in_anchor", "only_in_checkpoint", "skipped", "tied", "notes")


def covered(pairing: Pairing, steps: Sequence[int]) -> Covered:
    """What of one run is paired, and what of it is measured in which way.

    Args:
        pairing: Of its checkpoints with their anchor.
        steps: Of these checkpoints, in the order in which they were paired.
    """
    each = list({id(found): found for found in pairing.coverages}.values())
    absent = _absent(pairing, steps)
    return {
        "measured": len(pairing.matrices),
        "measured_weights": sum(view.numel for view in pairing.matrices),
        "elements_only": [view.label for view in pairing.elements],
        "elements_only_weights": sum(view.numel for view in pairing.elements),
        "paired": len(pairing.pieces),
        "share_of_anchor": min(found.shares[0] for found in each),
        "share_of_checkpoint": min(found.shares[1] for found in each),
        "renamed": _distinct(
            {"anchor": mine, "checkpoint": theirs, "tensors": number}
            for found in each
            for (mine, theirs), number in found.renamed().items()
        ),
        "resized": _distinct(
            {"tensor": mine.label, "in_anchor": mine.rows, "in_checkpoint": theirs.rows}
            for found in each
            for mine, theirs in found.resized
        ),
        "only_in_anchor": _distinct(
            view.label
            for found in each
            for view in found.only_in_anchor
            if view.label not in absent
        ),
        "only_in_checkpoint": _distinct(
            view.label for found in each for view in found.only_in_checkpoint
        ),
        "absent": absent,
        "skipped": _distinct(item._asdict() for found in each for item in found.skipped),
        "tied": _distinct(found.tied for found in each if found.tied is not None),
        "notes": _distinct(note for found in each for note in found.notes),
    }


def _absent(pairing: Pairing, steps: Sequence[int]) -> dict[str, list[int]]:
    """The steps at which a matrix that other checkpoints hold is missing, by its label."""
    return {
        view.label: [step for step, piece in zip(steps, pieces, strict=True) if piece is None]
        for view, pieces in pairing.pieces.items()
        if None in pieces
    }


def absent_since(found: Covered, known: Covered, gone: Collection[int]) -> dict[str, list[int]]:
    """Add the steps of checkpoints that were measured before without a matrix, and are gone since.

    Args:
        found: The coverage of the checkpoints that are there.
        known: The coverage of the run as the manifest has it; empty where it has none.
        gone: The steps of the others.
    """
    earlier = {label: list(gone) for label in known.get("only_in_anchor", ())}
    steps: dict[str, set[int]] = {label: set(held) for label, held in found["absent"].items()}
    for label, held in {**earlier, **known.get("absent", {})}.items():
        steps.setdefault(label, set()).update(set(held) & set(gone))
    return {label: sorted(held) for label, held in steps.items() if held}


def together(runs: Sequence[Covered]) -> Covered:
    """The coverage of several runs: the smallest shares, and whatever holds of any of them."""
    absent: dict[str, set[int]] = {}
    for run in runs:
        for label, steps in run.get("absent", {}).items():
            absent.setdefault(label, set()).update(steps)
    lists = {name: _distinct(item for run in runs for item in run.get(name, ())) for name in _LISTS}
    return {
        "measured": max(run["measured"] for run in runs),
        "elements_only": sorted({label for run in runs for label in run["elements_only"]}),
        "paired": max(run.get("paired", 0) for run in runs),
        "share_of_anchor": min(run.get("share_of_anchor", 1.0) for run in runs),
        "share_of_checkpoint": min(run.get("share_of_checkpoint", 1.0) for run in runs),
        "absent": {label: sorted(absent[label]) for label in sorted(absent)},
        **lists,
    }


def described(found: Covered) -> list[str]:
    """The coverage in words, one line each for what there is."""
    renamed = sum(item["tensors"] for item in found["renamed"])
    reasons = "; ".join(sorted({item["reason"] for item in found["skipped"]}))
    counted = (
        (f"{renamed} under other names", renamed),
        (f"{len(found['resized'])} on common rows", len(found["resized"])),
        (f"{len(found['absent'])} not in every checkpoint", len(found["absent"])),
        (f"only in the anchor {len(found['only_in_anchor'])}", len(found["only_in_anchor"])),
        (
            f"only in a checkpoint {len(found['only_in_checkpoint'])}",
            len(found["only_in_checkpoint"]),
        ),
        (f"not measured {len(found['skipped'])} ({reasons})", len(found["skipped"])),
    )
    paired = (
        f"paired: {found['paired']}, {found['share_of_anchor']:.2%} of the anchor's weights and "
        f"{found['share_of_checkpoint']:.2%} of the checkpoints'"
    )
    return [
        "; ".join((paired, *(text for text, number in counted if number))),
        *(f"tied: {text}" for text in found["tied"]),
        *found["notes"],
    ]


def _distinct(items: Iterable[T]) -> list[T]:
    return list({repr(item): item for item in items}.values())
