"""The public checkpoints of Table 1: fetched from the hub at pinned commits, and measured.

    OUT/pins.json   the commit of every repository, written before it is first fetched
    OUT/results/    the measured pairs, one run each; its manifest has the pins, too

A repository whose `main` has moved since is refused: what stands in the table would be another
model. Where the hub cannot be reached, a pinned commit in its cache is measured as before.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import model_validator
from rich.console import Console

from offaxis.checkpoints.hub import HubId, Snapshot, cached, fetch, look_up
from offaxis.checkpoints.trajectory import Checkpoint, Trajectory
from offaxis.console import messages
from offaxis.errors import CheckpointError, OffaxisError, ResultsError, UsageError
from offaxis.files import atomically, write_text
from offaxis.measurement import Options, Pass, measure
from offaxis.recipe.table import Table
from offaxis.reproduction.declared import read
from offaxis.reproduction.extract import STUDY, RunFacts, study_table
from offaxis.table import TRAINING, ResultsFolder

FILE = Path(__file__).with_name("public_pairs.toml")
REVISION = "main"
ENTRY = "tab1"

ARM = "public-"
"""What begins the arm of a pair in the study table."""


class PublicPair(Table):
    """Two public checkpoints, one trained from the other.

    Attributes:
        id: How the table calls the pair.
        anchor: The repository of the start.
        tuned: The repository of what was trained from it.
        method: How.
        data: On what.
        published: % of weights unchanged in bf16 by Table 1.
        earlier: The same by arXiv:2511.08567.
        licences: Of the two, with what could be confirmed.
        confirmed: How we know the repository.
        is_confirmed: Whether it is known to be the one that was measured.
    """

    id: str
    anchor: str
    tuned: str
    method: str
    data: str
    published: float
    earlier: float | None = None
    licences: tuple[str, str]
    confirmed: str
    is_confirmed: bool


class _Pairs(Table):
    pairs: tuple[PublicPair, ...]

    @model_validator(mode="after")
    def _names_are_unique(self) -> "_Pairs":
        names = [pair.id for pair in self.pairs]
        if len(set(names)) < len(names):
            raise ValueError("every id once")
        return self


class Measured(NamedTuple):
    """What came of the pairs.

    Attributes:
        table: Rows of the study table, of those that were measured.
        refused: By id, why the others were not.
    """

    table: pa.Table
    refused: Mapping[str, OffaxisError]


def load_pairs(path: Path = FILE) -> dict[str, PublicPair]:
    """Read the pairs, by id.

    Raises:
        RecipeError: If the file cannot be read, or a pair is not as declared above.
    """
    return {pair.id: pair for pair in read(_Pairs, path).pairs}


def measure_pairs(
    out: Path,
    pairs: Sequence[PublicPair] | None = None,
    *,
    diagnostics: Sequence[str] = ("sparsity",),
    workers: int | None = None,
    console: Console | None = None,
) -> Measured:
    """Fetch and measure every pair that can be; the others are returned with their reasons.

    Args:
        out: The folder of pins and results.
        pairs: All by default.
        diagnostics: What is measured of each.
        workers: As `measure`.
        console: Where the progress goes.

    Raises:
        UsageError: If the extra `hub` is not installed.
        ResultsError: If the folder cannot be read or written.
    """
    console = console or messages()
    chosen = list(load_pairs().values()) if pairs is None else list(pairs)
    pins, results = Pins(out / "pins.json"), ResultsFolder(out / "results")
    refused: dict[str, OffaxisError] = {}
    for pair in chosen:
        console.print(f"{pair.id}: {pair.anchor} and {pair.tuned}")
        try:
            anchor, tuned = (fetch(pins.pinned(repo)) for repo in (pair.anchor, pair.tuned))
            measure(
                [Trajectory(pair.id, anchor, (Checkpoint(1, tuned),))],
                results.root,
                Options(passes=(Pass("stored", tuple(diagnostics)),)),
                workers=workers,
                study={"title": "Public pairs of Table 1", "pins": pins.read()},
                console=console,
            )
        except (ResultsError, UsageError):
            raise
        except OffaxisError as error:
            refused[pair.id] = error
            console.print(f"{pair.id} is not measured:\n{error}")
    done = [pair.id for pair in chosen if pair.id not in refused]
    return Measured(_rows(results, done), refused)


def reproduce_pairs(
    ids: Sequence[str], out: Path, workers: int | None, console: Console
) -> dict[str, Any]:
    """Measure all pairs into a study table: of the paper's scale, what needs no training.

    Args:
        ids: The entries asked for.
        out: The folder of table, pins and results.
        workers: As `measure`.
        console: Where the progress goes.

    Raises:
        UsageError: If another entry than that of the pairs is asked for.
        OffaxisError: As `measure_pairs`.
    """
    if list(ids) != [ENTRY]:
        raise UsageError(
            "reproduce --scale paper",
            expected=f"{ENTRY}, whose public pairs are measured; or --dry-run: these recipes are "
            "to be run on a cluster, by `offaxis train`",
            found=", ".join(ids),
            do="add --dry-run, or choose --scale tiny",
        )
    doubtful = [pair for pair in load_pairs().values() if not pair.is_confirmed]
    notes = [f"{pair.tuned} is not confirmed: {pair.confirmed}" for pair in doubtful]
    for note in notes:
        console.print(note)
    found = measure_pairs(out, workers=workers, console=console)
    with atomically(out / "study.parquet") as path:
        pq.write_table(found.table, path, compression="zstd")
    return {
        "study": str(out / "study.parquet"),
        "results": str(out / "results"),
        "rows": found.table.num_rows,
        "entries": [ENTRY],
        "failed": {name: str(error) for name, error in found.refused.items()},
        "notes": notes,
    }


class Pins:
    """The commit of every repository that was ever asked for, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """The commits by repository.

        Raises:
            ResultsError: If the file is damaged.
        """
        if not self.path.exists():
            return {}
        try:
            found: Any = json.loads(self.path.read_text("utf-8"))
            return {str(repo): str(commit) for repo, commit in found.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise ResultsError(
                str(self.path),
                expected="a JSON object from repositories to commits",
                found=str(error),
                do="restore the file; without it nobody knows which models were measured",
            ) from error

    def pinned(self, repo: str) -> HubId:
        """The commit of a repository, pinned now if it never was.

        Raises:
            CheckpointError: If `main` is another commit than the pinned one, or the hub cannot be
                reached and the pinned commit is not in its cache.
        """
        pins = self.read()
        known = pins.get(repo)
        try:
            now: Snapshot | None = look_up(HubId(repo, REVISION))
        except CheckpointError:
            if known is None or cached(HubId(repo, known)) is None:
                raise
            now = None
        commit = known if now is None else now.commit
        assert commit is not None  # either the hub has answered, or it is known
        if known is not None and commit != known:
            raise CheckpointError(
                f"{repo}@{REVISION}",
                expected=f"the commit that was measured first: {known}",
                found=commit,
                do=f"measure that one with `offaxis measure {repo}@{known} ...`; to follow the "
                f"repository, choose another output folder, or remove its line from {self.path}",
            )
        if known is None:
            write_text(self.path, json.dumps({**pins, repo: commit}, indent=2, sort_keys=True))
        return HubId(repo, commit)


def _rows(results: ResultsFolder, ids: Sequence[str]) -> pa.Table:
    """The rows of measured pairs in the study table; a pair is a draw of its own kind, number 0."""
    if not ids:
        return STUDY.empty_table()
    runs = {name: RunFacts(ARM + name) for name in ids}
    readings = results.read("readings", list(ids))
    return study_table(0, runs, readings=readings, training=TRAINING.empty_table())
