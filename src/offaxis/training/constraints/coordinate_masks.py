"""The coordinate mask of each matrix: made from another run, the start or a draw, and recorded."""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Bool
from safetensors.torch import save_file
from torch import Tensor

from offaxis.engine.seeds import generator_for
from offaxis.files import write_atomically
from offaxis.linalg.coordinates import (
    low_magnitude_entries,
    principal_entries,
    random_entries,
    visibly_changed,
)
from offaxis.linalg.shards import whole
from offaxis.recipe import Mask
from offaxis.training.constraints.sources import FoundUpdate

# In the run folder: for each matrix, by its name, the coordinates that may move.
MASK_FILE = "mask.safetensors"


def coordinate_masks(
    choice: Mask, starts: Mapping[str, Tensor], other: FoundUpdate | None, seed: int
) -> dict[str, Bool[Tensor, "m n"]]:
    """Make the masks of a recipe.

    Args:
        choice: The recipe's table.
        starts: The matrices where training starts.
        other: The update of `choice.of`.
        seed: The key of `random`.

    Raises:
        CheckpointError: If the other run has no such matrix.
    """
    return {name: _mask(choice, name, whole(W), other, seed) for name, W in starts.items()}


def _mask(
    choice: Mask, name: str, W: Tensor, other: FoundUpdate | None, seed: int
) -> Bool[Tensor, "m n"]:
    count = round((choice.density or 0.0) * W.numel())
    if other is not None:
        ends = (other.end(folder, name, tuple(W.shape)) for folder in other)
        changed = visibly_changed(*ends)
        if choice.kind == "update":
            return changed
        count = int(changed.sum())
    if choice.kind == "principal":
        return principal_entries(W, count, choice.rank)
    if choice.kind == "low_magnitude":
        return low_magnitude_entries(W, count)
    if choice.kind in ("not_principal", "not_principal_or_low"):
        outside = ~principal_entries(W, W.numel() - count, choice.rank)
        is_union = choice.kind == "not_principal_or_low"
        return outside | low_magnitude_entries(W, count) if is_union else outside
    return random_entries(W.shape[0], W.shape[1], count, generator_for("mask", seed, name))


def write_masks(masks: Mapping[str, Bool[Tensor, "m n"]], folder: Path) -> None:
    """Record the masks in the folder of a run.

    Raises:
        ResultsError: If it cannot be written.
    """
    tensors = {name: mask.contiguous().cpu() for name, mask in masks.items()}
    write_atomically(folder / MASK_FILE, lambda path: save_file(tensors, path))
