"""Names from files on the terminal: characters, never commands, markup or lines of their own."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from offaxis.console import messages, progress
from offaxis.errors import OffaxisError, printable

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\r[bold]x[/bold]:boom:\x9b31m\u202e\nfound: nothing"


@pytest.fixture
def console():
    """The console of messages, on a terminal that is a string."""
    found = messages()
    found.file, found._force_terminal = io.StringIO(), True
    return found


@given(st.text())
def test_an_error_is_four_lines_that_print(text: str) -> None:
    error = OffaxisError(text, expected=text, found=text, do=text)
    lines = str(error).split("\n")
    assert [line[:10] for line in lines] == ["where:    ", "expected: ", "found:    ", "do:       "]
    assert all(line.isprintable() for line in lines)


@given(st.text())
def test_what_prints_is_left_as_it_is(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert (printable(text) == text) == text.isprintable()
    assert printable(text, keep="\n").count("\n") == text.count("\n")


def test_messages_and_tables(console) -> None:
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(f"plan: {HOSTILE}")
    console.print(table)
    said = console.file.getvalue()
    assert "[bold]x[/bold]:boom:" in said
    for command in ("\x1b]", "\x07", "\x1b[2J", "\r", "\x9b", "\u202e"):
        assert command not in said


def test_progress(console) -> None:
    with progress(console) as bars:
        bars.add_task(HOSTILE, total=1)
    said = console.file.getvalue()
    assert "a\\x1b]0;owned\\x07\\x1b[2J\\r[bold]x[/bold]:boom:" in said
    assert "\x1b]0" not in said
