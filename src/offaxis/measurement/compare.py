"""The verb `compare`: do runs from one anchor change the same weights, and where do they change?

Similarity over time compares checkpoints of one run by the factors that they left behind; masks of
runs are compared by the weights themselves, one matrix at a time, and leave no unit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from offaxis.checkpoints.access import SAFE, Access
from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.pairing import pair
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.trajectory import Trajectory, find_trajectories
from offaxis.checkpoints.views import View
from offaxis.console import messages, progress
from offaxis.errors import CheckpointError, UsageError
from offaxis.linalg import agreement
from offaxis.linalg.coordinates import visibly_changed
from offaxis.measurement.compared import Row, rows_of_matrix, rows_of_roles
from offaxis.measurement.reading import read_matrix


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
    pairing = pair(starts[0], [*starts, *ends])
    held = {view: pairing.pieces[view] for view in pairing.matrices}
    shared = {view: _Places(*_halves(pieces)) for view, pieces in held.items() if all(pieces)}
    if not own_anchors:
        _require_same_start(starts, shared)
    names = [run.run for run in runs]
    rows: list[Row] = []
    energies: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    with progress(console or messages()) as bars:
        for view, places in bars.track(shared.items(), description="comparing runs"):
            begun = list(zip(starts, places.starts, strict=True))
            begun = begun if own_anchors else begun[:1]
            befores = [read_matrix(start, view, piece) for start, piece in begun]
            afters = [
                read_matrix(e, view, piece) for e, piece in zip(ends, places.ends, strict=True)
            ]
            pairs = list(zip(befores if own_anchors else befores * len(ends), afters, strict=True))
            hits = agreement.hits_of(befores, [visibly_changed(*each) for each in pairs])
            rows += rows_of_matrix(view, hits, names)
            energy = torch.stack([(b.double() - a.double()).square().sum() for a, b in pairs])
            energies[view.role] = energies.get(view.role, torch.zeros_like(energy)) + energy
            sizes[view.role] = sizes.get(view.role, 0) + view.numel
    return {
        "rows": [*rows, *rows_of_roles(energies, sizes, names)],
        "steps": _steps(runs),
        "not_in_all_runs": [view.label for view in held if view not in shared],
    }


class _Places(NamedTuple):
    """Where each run holds a matrix at its start and at its end."""

    starts: Sequence[Piece]
    ends: Sequence[Piece]


def _halves(pieces: Sequence[Piece | None]) -> tuple[list[Piece], list[Piece]]:
    there = [piece for piece in pieces if piece is not None]
    return there[: len(there) // 2], there[len(there) // 2 :]


def _steps(runs: Sequence[Trajectory]) -> dict[str, int]:
    return {run.run: run.checkpoints[-1].step for run in runs}


def _require_same_start(starts: Sequence[CheckpointReader], shared: Mapping[View, _Places]) -> None:
    """Refuse runs of different anchors: their masks are of different matrices."""
    for place, other in enumerate(starts):
        if other.path == starts[0].path:
            continue
        for view, places in shared.items():
            first, here = (read_matrix(starts[i], view, places.starts[i]) for i in (0, place))
            if not torch.equal(first, here):
                raise CheckpointError(
                    str(other.path),
                    expected=f"the weights of {starts[0].path}",
                    found=f"others in {view.label}",
                    do="compare runs that start at one anchor, or each from its own with "
                    "--own-anchors",
                )
