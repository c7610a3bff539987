"""Where in one matrix the visible update lies: the maps of Figure 3.

They are not in any table and are read off the checkpoints of the first draw, as long as these are
where they were measured.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from offaxis.checkpoints.formats import open_checkpoint
from offaxis.diagnostics.masks import masks
from offaxis.linalg.coordinates import (
    low_magnitude_entries,
    principal_entries,
    visibly_changed,
)
from offaxis.reproduction.arms import Changes, Scale
from offaxis.reproduction.single_matrices import at_the_end, representative
from offaxis.reproduction.study import held_runs, measured_draws, results_of

TILES = 16
"""Along each side of the map."""

Row = dict[str, Any]


def local_masks(
    out: Path, scale: Scale, arms: Sequence[str], changes: Changes | None = None
) -> list[Row]:
    """Return the tiles of all maps of the first draw; of arms whose checkpoints are gone, none.

    Args:
        out: The study's folder.
        scale: Which recipes.
        arms: Whose maps.
        changes: Overrides by arm.

    Raises:
        ResultsError: If the results folder is damaged.
        CheckpointError: If a checkpoint is.
    """
    draw = next(iter(measured_draws(out)), None)
    if draw is None:
        return []
    results = results_of(draw, out)
    held = {facts.arm: run for run, facts in held_runs(draw, out, scale, changes).items()}
    told = {run["name"]: run for run in results.manifest()["runs"]}
    rows: list[Row] = []
    for arm in arms:
        if arm not in held:
            continue
        run = told[held[arm]]
        start, end = Path(run["anchor_path"]), Path(run["checkpoint_paths"][str(run["steps"][-1])])
        chosen = representative(at_the_end(results.read("readings", [held[arm]])))
        if chosen is None or chosen.view or not (start.is_dir() and end.is_dir()):
            continue
        before, after = (open_checkpoint(path).read(chosen.tensor).float() for path in (start, end))
        place = {"id": arm, "tensor": chosen.tensor}
        rows += [{**place, **tile} for tile in tiles(before, after)]
    return rows


def tiles(start: Float[Tensor, "m n"], end: Float[Tensor, "m n"]) -> Iterator[Row]:
    """Yield, tile by tile, the share of changed weights, and of these the shares in both masks.

    A row has `what`, the tile's corners `x`, `x2`, `y`, `y2` and its `value` in [0, 1]; overlaps
    of tiles without a change are left out.

    Args:
        start: The weights before.
        end: The weights after.
    """
    settings = masks.settings(min(start.shape))
    count = round(settings["alpha"] * start.numel())
    changed = visibly_changed(start, end)
    inside = {
        "principal_overlap": principal_entries(start, count, settings["rank"]),
        "low_magnitude_overlap": low_magnitude_entries(start, count),
    }
    for y, y2 in _stretches(start.shape[0]):
        for x, x2 in _stretches(start.shape[1]):
            place = {"x": x, "x2": x2, "y": y, "y2": y2}
            here = changed[y:y2, x:x2]
            yield {"what": "update_density", **place, "value": _share(here, torch.ones_like(here))}
            if here.any():
                for what, mask in inside.items():
                    yield {"what": what, **place, "value": _share(mask[y:y2, x:x2], here)}


def _share(mask: Bool[Tensor, "m n"], of: Bool[Tensor, "m n"]) -> float:
    return float((mask & of).sum() / of.sum())


def _stretches(length: int) -> list[tuple[int, int]]:
    """The borders of at most `TILES` tiles of nearly equal length."""
    borders = torch.linspace(0, length, min(TILES, length) + 1).round().int().tolist()
    return list(pairwise(borders))
