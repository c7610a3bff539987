"""The verb `compare`: do runs from one anchor change the same weights, and where do they change?

Similarity over time compares checkpoints of one run by the factors that they left behind; masks of
runs are compared by the weights themselves, one matrix at a time, and leave no unit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from offaxis.checkpoints.access import SAFE, Access
from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.pairing import pair
from offaxis.checkpoints.trajectory import Trajectory, find_trajectories
from offaxis.checkpoints.views import View
from offaxis.console import messages, progress
from offaxis.errors import CheckpointError, UsageError
from offaxis.linalg import agreement
from offaxis.linalg.coordinates import visibly_changed
from offaxis.measurement.compared import Row, rows_of_matrix, rows_of_roles


def compare_command(
    paths: Sequence[Path],
    *,
    anchor: Path | None = None,
    own_anchors: bool = False,
    access: Access = SAFE,
    console: Console | None = None,
) -> dict[str, Any]:
    """Compare the last checkpoints of runs that share an anchor.

    Args:
        paths: Run folders, at least two.
        anchor: The checkpoint that updates are measured from; each run's own by default.
        own_anchors: Whether runs of different anchors are compared, each by the coordinates that
            it changed of its own.
        access: What may be opened beside safetensors.
        console: Where progress goes.

    Returns:
        `rows`, one number each: of every matrix and two runs `jaccard` and `coverage` (of the
        first's changes, the share that the second makes too); of every matrix `consensus`, the
        share of entries that so many runs changed; of every role and run `energy_share`.
        `null_mean` is what the precision gate alone gives (`stratified`), or a share of the weights
        (`isotropic`), `chance` what the densities alone give.

    Raises:
        UsageError: If there is only one run.
        CheckpointError: If the runs do not start at one anchor, or a checkpoint cannot be read.
    """
    runs = find_trajectories(paths, anchor=anchor)
    if len(runs) < 2:
        raise UsageError(
            "compare",
            expected="at least two runs",
            found=f"{len(runs)}",
            do="name the folders of runs that start at one anchor",
        )
    starts = [open_checkpoint(run.anchor, access) for run in runs]
    ends = [open_checkpoint(run.checkpoints[-1].path, access, run.anchor) for run in runs]
    views = pair(starts[0], ends[0]).matrices
    for start, end in zip(starts, ends, strict=True):
        pair(starts[0], start)
        pair(start, end)
        if not own_anchors:
            _require_same_start(starts[0], start, views)
    names = [run.run for run in runs]
    rows: list[Row] = []
    energies: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    with progress(console or messages()) as bars:
        for view in bars.track(views, description="comparing runs"):
            befores = [_read(start, view) for start in (starts if own_anchors else starts[:1])]
            pairs = [
                (befores[i if own_anchors else 0], _read(end, view)) for i, end in enumerate(ends)
            ]
            hits = agreement.hits_of(befores, [visibly_changed(*each) for each in pairs])
            rows += rows_of_matrix(view, hits, names)
            energy = torch.stack([(b.double() - a.double()).square().sum() for a, b in pairs])
            energies[view.role] = energies.get(view.role, torch.zeros_like(energy)) + energy
            sizes[view.role] = sizes.get(view.role, 0) + view.numel
    return {"rows": [*rows, *rows_of_roles(energies, sizes, names)], "steps": _steps(runs)}


def _steps(runs: Sequence[Trajectory]) -> dict[str, int]:
    return {run.run: run.checkpoints[-1].step for run in runs}


def _read(reader: CheckpointReader, view: View) -> Tensor:
    W = reader.read(view.tensor, view.entry).reshape(view.shape)
    if not bool(W.isfinite().all()):
        raise CheckpointError(
            f"tensor {view.label!r} in {reader.path}",
            expected="finite weights",
            found="entries NaN or infinite",
            do="compare checkpoints before the step at which training diverged",
        )
    return W


def _require_same_start(
    start: CheckpointReader, other: CheckpointReader, views: Sequence[View]
) -> None:
    """Refuse runs of different anchors: their masks are of different matrices."""
    if other.path == start.path:
        return
    pair(start, other)
    for view in views:
        if not torch.equal(_read(start, view), _read(other, view)):
            raise CheckpointError(
                str(other.path),
                expected=f"the weights of {start.path}",
                found=f"others in {view.label}",
                do="compare runs that start at one anchor, or each from its own with --own-anchors",
            )
