"""What a person sees while work goes on, on standard error; standard output is for results."""

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_ESTIMATE_SECONDS = 600
"""The time left is told from this much of the past, which holds matrices of several sizes."""


def messages() -> Console:
    """The console for messages and progress; names from files are never read as markup."""
    return Console(file=sys.stderr, markup=False, highlight=False, soft_wrap=True)


def progress(console: Console) -> Progress:
    """Bars that say what is happening, how far it is and what remains."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def byte_progress(console: Console) -> Progress:
    """Bars in bytes; the field `counted` says how many things they belong to."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[counted]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=_ESTIMATE_SECONDS,
    )
