"""What a measurement will read, how much memory it will hold and about how long it will take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offaxis.checkpoints.coverage import require
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.pairing import Pairing, pair
from offaxis.checkpoints.trajectory import Trajectory
from offaxis.checkpoints.views import Kind, View
from offaxis.diagnostics.base import Tier
from offaxis.measurement.covering import Covered, covered, described, together
from offaxis.measurement.factors import adapted_alone
from offaxis.measurement.options import Options
from offaxis.measurement.tasks import Series, Source, Task
from offaxis.table import ResultsFolder


@dataclass(frozen=True)
class Plan:
    """The tasks of a measurement, and what is known of them before the first is begun."""

    trajectories: Sequence[Trajectory]
    sources: dict[str, tuple[Source, ...]]
    anchor_of: dict[str, Source]
    pairing_of: dict[str, Pairing]
    tasks: list[Task]
    results: ResultsFolder
    options: Options

    @property
    def num_units(self) -> int:
        """(matrix, checkpoint, storage) units, finished ones included."""
        return sum(task.num_units for task in self.tasks)

    @property
    def bytes_read(self) -> int:
        """Bytes of weights that the checkpoints hold in measured tensors."""
        return sum(task.bytes_to_read for task in self.tasks)

    @property
    def peak_bytes(self) -> int:
        """Memory that one worker holds at most, for the largest matrix."""
        return max(task.peak_bytes for task in self.tasks)

    def _count(self, kind: Kind) -> int:
        return sum(task.view.kind == kind for task in self.tasks)

    def coverage(self) -> dict[str, Covered]:
        """What is measured and what is not, by run, in tensors and in weights."""
        return {
            t.run: covered(self.pairing_of[t.run], [c.step for c in t.checkpoints])
            for t in self.trajectories
        }

    def core_minutes(self, tier: Tier) -> float:
        """Estimated time on one core, if nothing is finished yet."""
        return sum(task.core_seconds(tier) for task in self.tasks) / 60

    def describe(self) -> str:
        """The plan in words."""
        checkpoints = sum(len(sources) for sources in self.sources.values())
        elements = self._count("elements")
        each = (
            "1 tensor by its elements" if elements == 1 else f"{elements} tensors by their elements"
        )
        beside = f" and {each}" if elements else ""
        tier = self.options.tier
        lines = [
            f"plan: {self._count('matrix')} matrices{beside} x {checkpoints} checkpoints of "
            f"{len(self.sources)} run(s), {self.num_units} units, {tier} tier",
            f"      reads {self.bytes_read / 1e6:,.0f} MB, holds at most "
            f"{self.peak_bytes / 1e6:,.0f} MB a worker, about {self.core_minutes(tier):.1f} "
            "core-minutes if nothing is finished yet",
        ]
        if tier == "exact":
            lines.append(f"      --tier fast would take about {self.core_minutes('fast'):.1f}")
        lines.extend(f"      {line}" for line in described(together([*self.coverage().values()])))
        lines.extend(f"      {note}" for t in self.trajectories for note in t.notes)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The plan for programs."""
        return {
            "runs": {run: [s.step for s in sources] for run, sources in self.sources.items()},
            "matrices": self._count("matrix"),
            "elements_only": self._count("elements"),
            "units": self.num_units,
            "tier": self.options.tier,
            "bytes_read": self.bytes_read,
            "peak_bytes_per_worker": self.peak_bytes,
            "core_minutes": round(self.core_minutes(self.options.tier), 2),
            "core_minutes_fast": round(self.core_minutes("fast"), 2),
            "coverage": self.coverage(),
        }


def master_precision(trajectory: Trajectory) -> str:
    """The format that held the weights in training, where the run's manifest says it."""
    precision = trajectory.manifest.get("precision") or {}
    return str(precision.get("weights", "unknown"))


Identify = Callable[[Path], str]
"""Names a checkpoint's content by its path: a hash, or in a dry run the path itself."""


def make_plan(
    trajectories: Sequence[Trajectory],
    results: ResultsFolder,
    options: Options,
    identify: Identify,
    gone: Mapping[str, Sequence[Source]] | None = None,
) -> Plan:
    """Read headers, pair every checkpoint with its anchor, and lay out the tasks.

    Nothing is identified before everything is paired.

    Args:
        trajectories: What to measure.
        results: Where to.
        options: How.
        identify: Gives equal names to equal anchors, which are then factored once.
        gone: Checkpoints measured earlier whose folders are not there any more, by run.

    Raises:
        CheckpointError: If a checkpoint cannot be opened or paired.
        CoverageError: If less of a checkpoint can be paired than the options ask for.
    """
    pairing_of = {t.run: _paired(t, options) for t in trajectories}
    sources: dict[str, tuple[Source, ...]] = {}
    anchor_of: dict[str, Source] = {}
    shared: dict[tuple[str, View], list[Series]] = {}
    anchors: dict[str, Source] = {}
    for trajectory in trajectories:
        run, pairing = trajectory.run, pairing_of[trajectory.run]
        anchor = Source(0, trajectory.anchor, identify(trajectory.anchor))
        anchor_of[run] = anchors.setdefault(anchor.digest, anchor)
        present = [Source(c.step, c.path, identify(c.path)) for c in trajectory.checkpoints]
        sources[run] = tuple(sorted([*present, *(gone or {}).get(run, ())]))
        master = master_precision(trajectory)
        for view in (*pairing.matrices, *pairing.elements):
            held = zip(trajectory.checkpoints, pairing.pieces[view], strict=True)
            pieces = {c.step: piece for c, piece in held if piece is not None}
            series = Series(run, sources[run], pieces, master)
            shared.setdefault((anchor.digest, view), []).append(series)
    tasks = [
        Task(view, anchors[digest], tuple(series), results, options)
        for (digest, view), series in shared.items()
    ]
    tasks.sort(key=lambda task: task.core_seconds(options.tier), reverse=True)
    return Plan(trajectories, sources, anchor_of, pairing_of, tasks, results, options)


def _paired(trajectory: Trajectory, options: Options) -> Pairing:
    """Pair the checkpoints of a run with its anchor, each as far as is asked for."""
    anchor = trajectory.anchor
    readers = [open_checkpoint(c.path, options.access, anchor) for c in trajectory.checkpoints]
    begun = open_checkpoint(anchor, options.access)
    found = pair(begun, readers)
    for checkpoint, coverage in zip(trajectory.checkpoints, found.coverages, strict=True):
        require(coverage, options.min_coverage, anchor, checkpoint.path)
    return adapted_alone(found, begun, readers)
