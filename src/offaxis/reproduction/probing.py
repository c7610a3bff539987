"""Probes of the runs of a study: asked in worker processes, each answer kept in a file of its own.

OUT/probes/draw-0/mechanism-1f0e2a4b.parquet   named by the runs that were asked
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from offaxis.console import progress
from offaxis.errors import OffaxisError, ResultsError
from offaxis.files import write_atomically
from offaxis.reproduction.extract import STUDY
from offaxis.reproduction.probes import PROBES
from offaxis.runs import RunFolder
from offaxis.training.pool import Failures
from offaxis.training.stopping import ended_by_sigterm
from offaxis.workers import worker_pool


@dataclass(frozen=True)
class Visit:
    """One probe of one group of runs.

    Attributes:
        probe: The name of the probe.
        draw: Whose runs they are.
        runs: The runs, by arm.
        out: The folder of everything.
    """

    probe: str
    draw: int
    runs: Mapping[str, RunFolder]
    out: Path

    @property
    def path(self) -> Path:
        """Where the answer is kept. The names of the runs hold the hashes of their recipes."""
        asked = [str(PROBES[self.probe].version), *(run.root.name for run in self.runs.values())]
        digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:8]
        return self.out / "probes" / f"draw-{self.draw}" / f"{self.probe}-{digest}.parquet"

    @property
    def label(self) -> str:
        """What a reader calls it."""
        return f"{self.probe} of {', '.join(run.root.name for run in self.runs.values())}"

    @property
    def is_kept(self) -> bool:
        """Whether the answer is there."""
        return self.path.is_file()

    def answer(self) -> pa.Table:
        """The kept rows, as of the study table.

        Raises:
            ResultsError: If the file is damaged.
        """
        try:
            table = pq.read_table(self.path)
            return table.select(STUDY.names).cast(STUDY)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise ResultsError(
                str(self.path),
                expected="rows of the study table",
                found=str(error).splitlines()[0],
                do="remove the file and run the same command again",
            ) from error


def visits(
    probes: Iterable[str], draw: int, runs: Mapping[str, RunFolder], out: Path
) -> list[Visit]:
    """The visits of a draw: of every probe those groups whose runs are all there.

    Args:
        probes: Names of probes.
        draw: Which.
        runs: Its runs, by arm.
        out: The folder of everything.
    """
    return [
        Visit(name, draw, {arm: runs[arm] for arm in group}, out)
        for name in probes
        for group in PROBES[name].groups
        if runs.keys() >= set(group)
    ]


def visit_all(asked: Sequence[Visit], workers: int, console: Console, failures: Failures) -> None:
    """Ask what is not kept yet; an error ends its own visit alone, and is noted.

    Args:
        asked: The visits, of finished runs.
        workers: How many at a time, one thread each.
        console: Where progress goes.
        failures: Where errors are noted, by the visit's label.

    Raises:
        ResultsError: If an answer cannot be written.
    """
    missing = [visit for visit in asked if not visit.is_kept]
    if not missing:
        return
    with (
        ended_by_sigterm(),
        worker_pool(min(workers, len(missing)), _begin) as pool,
        progress(console) as bars,
    ):
        running = {pool.submit(ask, visit): visit for visit in missing}
        for future in bars.track(as_completed(running), len(running), description="probing"):
            label = running[future].label
            try:
                future.result()
            except ResultsError:
                raise
            except OffaxisError as error:
                failures[label] = error
            console.print(f"probed {label}")


def _begin() -> None:
    """A worker needs nothing."""


def ask(visit: Visit) -> None:
    """Ask, and keep the answer.

    Raises:
        OffaxisError: As the probe; or if the answer cannot be written.
    """
    rows = PROBES[visit.probe].ask(visit.runs, visit.out)
    table = pa.Table.from_pylist([row | {"draw": visit.draw} for row in rows], schema=STUDY)
    visit.path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(visit.path, lambda path: pq.write_table(table, path, compression="zstd"))
