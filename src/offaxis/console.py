"""What a person sees while work goes on, on standard error; standard output is for results."""

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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
