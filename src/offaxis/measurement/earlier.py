"""What a results folder holds already of the runs that are measured into it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from offaxis.checkpoints.trajectory import Checkpoint, Trajectory
from offaxis.errors import ResultsError
from offaxis.measurement.plan import Plan
from offaxis.measurement.provenance import Runs
from offaxis.measurement.tasks import Source
from offaxis.table import ResultsFolder


def earlier_runs(results: ResultsFolder) -> Runs:
    """What the folder holds already, by run."""
    if not results.manifest_path.exists():
        return {}
    return {run["name"]: run for run in results.manifest()["runs"]}


def extended_by(trajectory: Trajectory, earlier: Runs) -> Trajectory:
    """Add the checkpoints of this run that were measured before and are still there."""
    known = earlier.get(trajectory.run, {"checkpoint_paths": {}})
    given = {c.step for c in trajectory.checkpoints}
    kept = [
        Checkpoint(int(step), Path(path))
        for step, path in known["checkpoint_paths"].items()
        if int(step) not in given and Path(path).is_dir()
    ]
    return replace(trajectory, checkpoints=tuple(sorted([*trajectory.checkpoints, *kept])))


def gone_since(trajectory: Trajectory, known: dict[str, Any] | None) -> list[Source]:
    """The checkpoints of this run that were measured before and have been deleted since."""
    if known is None:
        return []
    held = {c.step for c in trajectory.checkpoints}
    return [
        Source(int(step), Path(known["checkpoint_paths"][step]), digest)
        for step, digest in known["checkpoint_sha256"].items()
        if int(step) not in held
    ]


def require_same_tier(results: ResultsFolder, tier: str) -> None:
    """A folder has one tier, so that no two of its numbers differ by how they were taken.

    Raises:
        ResultsError: If the folder was measured in the other one.
    """
    held = results.manifest().get("tier", tier) if results.manifest_path.exists() else tier
    if held != tier:
        raise ResultsError(
            str(results.root),
            expected=f"a folder measured in the {tier} tier, or none yet",
            found=f"one measured in the {held} tier",
            do=f"add --tier {held}, or give another --out",
        )


def require_same_runs(plan: Plan, earlier: Runs) -> None:
    """A name stands for one run: one anchor, and checkpoints that agree with those measured before.

    Raises:
        ResultsError: If the folder holds another run of the same name.
    """
    for trajectory in plan.trajectories:
        run, known = trajectory.run, earlier.get(trajectory.run)
        if known is None:
            continue
        anchor = plan.anchor_of[run]
        if known["anchor_sha256"] != anchor.digest:
            raise _another(
                run, plan, f"measured from {known['anchor_path']}", f"from {anchor.path}"
            )
        before = known["checkpoint_sha256"]
        here = {str(s.step): s.digest for s in plan.sources[run] if not s.is_gone}
        common = here.keys() & before.keys()
        agree = [step for step in common if here[step] == before[step]]
        if len(agree) < len(common) or (not common and known["path"] != trajectory.origin):
            raise _another(run, plan, f"one from {known['path']}", f"one from {trajectory.origin}")


def _another(run: str, plan: Plan, expected: str, found: str) -> ResultsError:
    return ResultsError(
        f"run {run!r} in {plan.results.root}",
        expected=f"the run of that name measured before, {expected}",
        found=f"other weights, {found}",
        do="give the same anchor and checkpoints, another name with --run, or another --out",
    )
