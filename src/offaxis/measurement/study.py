"""Measure the runs of a study together: everything as stored, and ranks as bf16 would show them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.measurement.options import Options, Pass, every_name
from offaxis.measurement.run import measure
from offaxis.table import ResultsFolder

IN_BF16 = ("norm", "rank", "tail")
"""The diagnostics that storage itself distorts; sparsity and masks cast by definition."""


def measure_runs(
    run_folders: Sequence[Path],
    out: Path,
    *,
    study: dict[str, Any],
    workers: int | None = None,
    console: Console | None = None,
) -> ResultsFolder:
    """Measure every run of a study into one results folder; see `measure` for what is raised."""
    passes = (Pass("stored", every_name()), Pass("bf16", IN_BF16))
    options = Options(passes=passes, draws=2)  # the page averages over matrices and seeds
    trajectories = find_trajectories(list(run_folders))
    return measure(trajectories, out, options, workers=workers, study=study, console=console)
