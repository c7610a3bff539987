"""From the paths a user gives to the trajectories that will be measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from offaxis.checkpoints.formats import format_of
from offaxis.checkpoints.hub import name_in_cache
from offaxis.checkpoints.run_folders import (
    Place,
    is_run,
    run_of,
    step_of,
    steps_of,
    weights_of,
)
from offaxis.checkpoints.trust.documents import read_object
from offaxis.errors import CheckpointError, UsageError
from offaxis.runs import RunFolder

_STATE = "trainer_state.json"


class Checkpoint(NamedTuple):
    """The weights of one step."""

    step: int
    path: Path


@dataclass(frozen=True)
class Trajectory:
    """An anchor and the ordered checkpoints of one run; `notes` say what was left out, and why."""

    run: str
    anchor: Path
    checkpoints: tuple[Checkpoint, ...]
    folder: RunFolder | None = None
    notes: tuple[str, ...] = ()

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run's trainer said of it; empty for a stranger's checkpoints."""
        return (self.folder.manifest() if self.folder else None) or {}

    @property
    def origin(self) -> str:
        """The folder that holds the run's first checkpoint."""
        return str(run_of(self.checkpoints[0].path.resolve()))


def find_trajectories(
    paths: Sequence[Path], *, anchor: Path | None = None, run: str | None = None
) -> list[Trajectory]:
    """Understand `RUN_FOLDER...`, or `ANCHOR CHECKPOINT...`.

    Args:
        paths: Run folders, laid out as in `run_folders`, or an anchor and its checkpoints.
        anchor: The anchor; then every path is a run folder or a checkpoint.
        run: The run's name, where the checkpoints belong to one run.

    Raises:
        UsageError: If no anchor can be told, or two runs have one name.
        CheckpointError: If a path does not exist or holds no checkpoint.
    """
    for path in paths if anchor is None else [*paths, anchor]:
        _require_folder(path)
    if anchor is not None or is_run(paths[0]):
        runs = [path for path in paths if is_run(path)]
        loose = [path for path in paths if not is_run(path)]
        found = [_of_run(path, anchor, run) for path in runs]
        found += _of_checkpoints(_require_anchor(anchor, loose), loose, run) if loose else []
    else:
        found = _of_checkpoints(paths[0], _required_checkpoints(paths), run)
    _require_distinct(found)
    return found


def _of_run(path: Path, anchor: Path | None, run: str | None) -> Trajectory:
    folder, places = RunFolder(path), steps_of(path)
    notes: list[str] = []
    if anchor is None:
        anchor = _found_anchor(folder, places)
        notes.append(f"updates are measured from {anchor}")
    start = weights_of(anchor).path
    steps = [Checkpoint(step, place.path) for step, place in places.items()]
    kept = tuple(c for c in steps if c.path.resolve() != start.resolve())
    if not kept:
        raise CheckpointError(
            str(path),
            expected="at least one checkpoint beside the anchor",
            found=f"only {anchor.name}",
            do="train further, or give another anchor with --anchor",
        )
    if format_of(path) is not None:
        notes.append(f"not measured: the weights that lie in {path} itself, beside its checkpoints")
    notes.extend(note for place in places.values() for note in place.notes)
    return Trajectory(run or path.resolve().name, start, kept, folder, tuple(notes))


def _found_anchor(folder: RunFolder, places: Mapping[int, Place]) -> Path:
    """The anchor that a run's manifest names, else its step 0."""
    named = (folder.manifest() or {}).get("anchor")
    if named is None and 0 not in places:
        raise _no_anchor(folder.root)
    if named is None:
        return places[0].path
    anchor = folder.root / str(named)
    if not anchor.resolve().is_relative_to(folder.root.resolve()):
        raise CheckpointError(
            str(folder.manifest_path),
            expected="an anchor in the run's own folder",
            found=repr(named),
            do="name the anchor yourself, with --anchor FOLDER",
        )
    _require_folder(anchor)
    return anchor


def _of_checkpoints(anchor: Path, paths: Iterable[Path], run: str | None) -> list[Trajectory]:
    start, notes = weights_of(anchor).path, list[str]()
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        places = list(steps_of(path).values()) if is_run(path) else [weights_of(path)]
        notes.extend(note for place in places for note in place.notes)
        for member in (place.path for place in places):
            if member.resolve() != start.resolve():
                by_folder.setdefault(run_of(member.resolve()), []).append(member)
    if not by_folder:
        raise CheckpointError(
            str(anchor),
            expected="at least one checkpoint beside the anchor",
            found="only the anchor itself",
            do="give the checkpoints that were trained from it",
        )
    if run is not None:
        by_folder = {anchor: [path for group in by_folder.values() for path in group]}
    found = []
    for folder, group in by_folder.items():
        steps = [Checkpoint(_step(path, index), path) for index, path in enumerate(group, start=1)]
        _require_distinct_steps(folder.name, steps)
        source = RunFolder(folder) if run is None else None
        name = run or name_in_cache(folder) or folder.name or "run"
        found.append(Trajectory(name, start, tuple(sorted(steps)), source, tuple(notes)))
    return found


def _step(path: Path, position: int) -> int:
    """The step of the folder's name, else of `trainer_state.json`, else the position given."""
    named = step_of(path.resolve())
    if named is not None:
        return named
    if (path / _STATE).is_file():
        step = read_object(path, _STATE).get("global_step")
        if type(step) is not int:
            raise CheckpointError(
                str(path / _STATE),
                expected='a JSON object with an integer "global_step"',
                found=f"{step!r:.80}",
                do="restore the file, or rename the folder to checkpoint-N",
            )
        return step
    return position


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(
            str(path),
            expected="the folder of a checkpoint or of a run",
            found="a file" if path.exists() else "no such folder",
            do="check the path; a model of the hub is written org/name@revision",
        )


def _required_checkpoints(paths: Sequence[Path]) -> Sequence[Path]:
    if len(paths) == 1:
        raise _no_anchor(paths[0])
    return paths[1:]


def _require_anchor(anchor: Path | None, loose: Sequence[Path]) -> Path:
    if anchor is None:
        raise _no_anchor(loose[0])
    return anchor


def _no_anchor(path: Path) -> UsageError:
    return UsageError(
        str(path),
        expected="an anchor: a manifest that names it, a checkpoint-0, or --anchor",
        found="none of them",
        do="say which checkpoint updates are measured from, with --anchor FOLDER",
    )


def _require_distinct_steps(run: str, checkpoints: Sequence[Checkpoint]) -> None:
    seen: dict[int, Path] = {}
    for step, path in checkpoints:
        if step in seen:
            raise UsageError(
                f"run {run!r}, step {step}",
                expected="one checkpoint a step",
                found=f"{seen[step]} and {path}",
                do="measure them as two runs, each with its own --run NAME",
            )
        seen[step] = path


def _require_distinct(trajectories: Sequence[Trajectory]) -> None:
    seen: dict[str, Trajectory] = {}
    for trajectory in trajectories:
        other = seen.setdefault(trajectory.run, trajectory)
        if other is not trajectory:
            raise UsageError(
                f"run {trajectory.run!r}",
                expected="runs with different names",
                found=f"{other.checkpoints[0].path.parent} and "
                f"{trajectory.checkpoints[0].path.parent}",
                do="measure them one by one into the same --out, each with its own --run NAME; "
                "to compare them, rename one of the folders",
            )
