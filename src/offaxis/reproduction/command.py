"""The verb `reproduce`: from the names of entries to the study table and the verdicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from offaxis.console import messages
from offaxis.reproduction.arms import Changes, Scale
from offaxis.reproduction.claims import load_claims
from offaxis.reproduction.contents import contents
from offaxis.reproduction.costs import Cost, costs, in_words, print_costs
from offaxis.reproduction.entries import ENTRIES, HEADLINE, Entry, chosen
from offaxis.reproduction.pages import write_pages
from offaxis.reproduction.public_pairs import reproduce_pairs
from offaxis.reproduction.study import Study, gather, run_study, study_of
from offaxis.reproduction.tables import as_records, note, terminal_table
from offaxis.reproduction.verdicts import evaluate
from offaxis.training.cost import FORMULA
from offaxis.workers import num_cores, require_workers

LIST = "list"


def reproduce(
    ids: Sequence[str] = (),
    *,
    scale: Scale = "tiny",
    quick: bool = False,
    out: Path | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    changes: Changes | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train what is missing for some entries, measure it, gather the study table and judge by it.

    Args:
        ids: Entries; those of the headline, without what is beside their main comparison, by
            default. `list` alone lists all with their costs.
        scale: Which recipes.
        quick: Fewer arms and draws.
        out: The folder of everything; `reproduction-SCALE` by default.
        workers: Runs trained at a time, one thread each; as many as there are cores by default.
        dry_run: Say what it would cost and stop.
        changes: Overrides of recipes by arm.
        console: Where plan and progress go; standard error by default.

    Returns:
        Where the table, the results and the pages are, the verdicts on the claims of these
        entries, and what failed or has to be known; for a dry run and for `list` the costs.

    Raises:
        UsageError: If there is no such entry, or nothing to train.
        OffaxisError: As training and measurement.
    """
    require_workers(workers)
    console = console or messages()
    workers = num_cores() if workers is None else workers
    out = out or Path(f"reproduction-{scale}")
    is_list = tuple(ids) == (LIST,)
    entries = chosen(list(ENTRIES) if is_list else ids or HEADLINE)
    how = {"quick": quick, "headline_only": not ids}
    study = study_of(entries, scale, changes=changes, **how)
    together, alone = costs(study, entries, out, **how)
    if is_list or dry_run:
        print_costs(alone, console, f"Each entry alone, at the scale {scale}")
    _say(study, together, workers, console)
    if is_list or dry_run:
        return {"scale": scale, "entries": [c._asdict() for c in alone], "all": together._asdict()}
    return _reproduced(study, entries, out, workers, console)


def _reproduced(
    study: Study, entries: Sequence[Entry], out: Path, workers: int, console: Console
) -> dict[str, Any]:
    """Train, measure, gather, judge, and say what went wrong."""
    if study.scale == "paper":
        found = reproduce_pairs([entry.id for entry in entries], out, workers, console)
        table = pq.read_table(out / "study.parquet")
        return found | _pages(study, out, table, found["notes"], console)
    failures, notes = run_study(study, out, workers, console)
    table = gather(out, study.scale, study.changes)
    figures = {entry.id for entry in entries}
    verdicts = [v for v in evaluate(load_claims(), table) if v.claim.figure in figures]
    if verdicts:
        console.print(terminal_table(verdicts))
        console.print(note(verdicts))
    failed = {name: str(error) for name, error in failures.items()}
    said = [f"{name} failed, and is left out:\n{error}" for name, error in failed.items()] + notes
    for each in said:
        console.print(each)
    return {
        "study": str(out / "study.parquet"),
        "results": str(out / "results"),
        "rows": table.num_rows,
        "entries": [entry.id for entry in entries],
        "verdicts": as_records(verdicts),
        "failed": failed,
        "notes": notes,
        **_pages(study, out, table, said, console),
    }


def _pages(
    study: Study, out: Path, table: pa.Table, notes: Sequence[str], console: Console
) -> dict[str, Any]:
    """Write the pages on everything in the table, whoever asked for it, and say where they are."""
    judged = evaluate(load_claims(), table)
    held = contents(out, table, judged, study.scale, changes=study.changes, notes=notes)
    paths = write_pages(out, held)
    console.print(f"page: {paths['page']}")
    if install := paths.pop("install"):
        console.print(f"figures as SVG and PDF were not drawn: {install}")
    return paths


def _say(study: Study, cost: Cost, workers: int, console: Console) -> None:
    console.print(in_words(cost, workers))
    if study.scale != "tiny":
        console.print(f"Training is on one GPU, its minutes by {FORMULA}.")
    if study.missing:
        console.print(f"no recipe at this scale: {', '.join(study.missing)}")
