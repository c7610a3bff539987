"""What a person sees while work goes on, on standard error; standard output is for results."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from offaxis.errors import printable

_ESTIMATE_SECONDS = 600
"""The time left is told from this much of the past, which holds matrices of several sizes."""


class _Messages(Console):
    """A console to which no text can say more than its characters."""

    def render_str(self, text: str, **settings: Any) -> Text:  # noqa: ANN401 - passed on
        return super().render_str(printable(text, keep="\n"), **settings)


class _Words(TextColumn):
    """A column of text that is no more than its characters."""

    def render(self, task: Task) -> Text:
        return Text(printable(self.text_format.format(task=task)))


def messages() -> Console:
    """The console for messages and progress; names from files are neither markup nor commands."""
    return _Messages(file=sys.stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def progress(console: Console) -> Progress:
    """Bars that say what is happening, how far it is and what remains."""
    return Progress(
        _Words("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def byte_progress(console: Console) -> Progress:
    """Bars in bytes; the field `counted` says how many things they belong to."""
    return Progress(
        _Words("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        _Words("{task.fields[counted]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=_ESTIMATE_SECONDS,
    )
