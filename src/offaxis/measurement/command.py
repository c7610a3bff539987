"""The verb `measure`: from a command line to a results folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ByteSize, TypeAdapter, ValidationError

from offaxis.checkpoints.access import SAFE, Access
from offaxis.checkpoints.coverage import LEAST
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.trajectory import Trajectory, find_trajectories
from offaxis.console import messages
from offaxis.diagnostics.base import Tier
from offaxis.errors import UsageError
from offaxis.measurement.executors import engine_for, follows, serve
from offaxis.measurement.options import Options, parse_overrides, passes
from offaxis.measurement.plan import make_plan
from offaxis.measurement.remote import fetched, headers_of, is_remote
from offaxis.measurement.run import measure
from offaxis.table import ResultsFolder

DEFAULT_OUT = "offaxis"


def measure_command(
    paths: Sequence[Path],
    *,
    out: Path | None,
    anchor: Path | None,
    run: str | None,
    storages: Sequence[str],
    only: Sequence[str] | None,
    tier: Tier,
    draws: int,
    seed: int,
    device: str,
    max_memory: str | None,
    workers: int | None,
    executor: str | None,
    overrides: Mapping[str, Any],
    dry_run: bool,
    access: Access = SAFE,
    min_coverage: float = LEAST,
) -> dict[str, Any]:
    """Measure what the paths name; return where the results are and what they cover.

    Where torchrun started several ranks, all but the first serve it and return nothing.
    """
    engine = engine_for(executor)
    budget = None if max_memory is None else _bytes(max_memory)
    if follows(engine):
        if not dry_run:
            serve(workers, budget)
        return {}
    options = Options(
        passes=passes(storages, only),
        overrides=parse_overrides(overrides),
        tier=tier,
        draws=_at_least_two(draws),
        seed=seed,
        device=_device(device),
        access=access,
        min_coverage=_share(min_coverage),
    )
    named = [path for path in (anchor, access.base) if path is not None]
    given = [*paths, *named]

    def understood(folders: Sequence[Path]) -> tuple[list[Trajectory], Options]:
        rest = [*folders]
        base = None if access.base is None else _checked(rest.pop(), access)
        place = None if anchor is None else rest.pop()
        found = find_trajectories(rest, anchor=place, run=run)
        return found, replace(options, access=replace(access, base=base))

    if dry_run or is_remote(given):
        # What the hub cannot give, or does not pair, is refused before gigabytes are fetched.
        with headers_of(given, messages()) as folders:
            trajectories, planned_by = understood(folders)
            planned = ResultsFolder(out or _default_out(trajectories))
            plan = make_plan(trajectories, planned, planned_by, lambda path: str(path.resolve()))
            messages().print(plan.describe())
            if dry_run:
                return plan.as_dict()
    trajectories, options = understood(fetched(given))
    results = ResultsFolder(out or _default_out(trajectories))
    measure(
        trajectories,
        results.root,
        options,
        workers=workers,
        executor=engine,
        max_memory=budget,
    )
    return {"results": str(results.root), "coverage": results.manifest()["coverage"]}


def _checked(base: Path, access: Access) -> Path:
    """The base of adapters, once it is known to be a checkpoint that can be opened."""
    open_checkpoint(base, replace(access, base=None)).tensors()
    return base


def _at_least_two(draws: int) -> int:
    if draws < 2:
        raise UsageError(
            "--draws",
            expected="at least 2, for a standard deviation",
            found=str(draws),
            do="leave it out for the default of 3",
        )
    return draws


def _share(least: float) -> float:
    if not 0 <= least <= 1:
        raise UsageError(
            "--min-coverage",
            expected="a share of the weights, from 0 to 1",
            found=str(least),
            do=f"leave it out for the default of {LEAST}",
        )
    return least


def _bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UsageError(
            "--max-memory",
            expected="a size, as 8GB or 500MiB",
            found=repr(text),
            do="leave it out for no limit",
        ) from error


def _device(name: str) -> str:
    """Check a device before anything is read.

    Raises:
        UsageError: If torch does not know it, or cannot reach it here.
    """
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            "--device",
            expected="a device of this machine, as cpu or cuda",
            found=f"{name!r}: {str(error).splitlines()[0]}",
            do="leave it out to measure on the CPU",
        ) from error
    return name


def _default_out(trajectories: Sequence[Trajectory]) -> Path:
    folders = [t.folder.root for t in trajectories if t.folder is not None]
    if len(trajectories) == 1 and len(folders) == 1:
        return folders[0] / DEFAULT_OUT
    raise UsageError(
        "measure",
        expected="a results folder, where more than one run is measured",
        found="no --out",
        do="give one with --out RESULTS",
    )
