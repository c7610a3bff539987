"""Evaluations as rows: one number a row, with its model, its interval and its definition."""

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from offaxis.errors import UsageError
from offaxis.files import write_atomically, write_text

SCHEMA = pa.schema(
    {
        "model": pa.string(),
        "step": pa.int64(),
        "path": pa.string(),
        "anchor": pa.string(),
        "edit": pa.string(),
        "task": pa.string(),
        "seed": pa.int64(),
        "metric": pa.string(),
        "value": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "size": pa.int64(),
        "unscorable": pa.int64(),
        "stderr": pa.float64(),
        "definition": pa.string(),
    }
)

Row = dict[str, Any]


def as_table(found: dict[str, Any]) -> str:
    """The rows for people, then what each metric is and where the anchors are."""
    rows: list[Row] = found["rows"]
    table = Table(box=None, pad_edge=False, header_style="")
    edited = ["edit"] if any(row["edit"] for row in rows) else []
    numbers = ["value", "95 % interval", "stderr", "of", "unscorable"]
    for title in ("model", "step", *edited, "metric", *numbers):
        is_number = title in ("step", *numbers)
        table.add_column(title, justify="right" if is_number else "left")
    for row in rows:
        step = "" if row["step"] is None else str(row["step"])
        stderr = "" if row["stderr"] is None else _number(row["stderr"])
        rest = (stderr, str(row["size"]), str(row["unscorable"]))
        names = (row["model"], step, *(row[title] for title in edited), row["metric"])
        table.add_row(*names, _number(row["value"]), _interval(row), *rest)
    # Wide enough for any table; columns are as wide as what they hold.
    console = Console(file=StringIO(), width=1000, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    definitions = dict.fromkeys(f"{row['metric']}: {row['definition']}" for row in rows)
    anchors = dict.fromkeys(f"anchor of {row['model']}: {row['anchor']}" for row in rows)
    return "\n".join([*lines, "", *definitions, *anchors])


def check_out(out: Path | None) -> None:
    """Refuse a file whose kind is not known, before hours depend on it.

    Raises:
        UsageError: If the name ends neither in .jsonl nor in .parquet.
    """
    if out is not None and out.suffix not in (".jsonl", ".parquet"):
        raise UsageError(
            "--out",
            expected="a file that ends in .jsonl or .parquet",
            found=str(out),
            do="choose one of the two",
        )


def write(rows: Sequence[Row], out: Path) -> None:
    """Write the rows as JSON Lines or Parquet, whole or not at all.

    Raises:
        ResultsError: If the file cannot be written.
    """
    if out.suffix == ".parquet":
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        write_atomically(out, lambda temporary: pq.write_table(table, temporary))
    else:
        write_text(out, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _interval(row: Row) -> str:
    if row["low"] is None:
        return ""
    return f"[{_number(row['low'])}, {_number(row['high'])}]"


def _number(value: float | None) -> str:
    """Four significant digits; a dash where there is no number."""
    return "-" if value is None else f"{value:.4g}"
