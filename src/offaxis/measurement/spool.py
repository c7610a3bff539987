"""Rows on their way to the tables: one file a matrix, written and read a batch at a time."""

from collections.abc import Iterable, Iterator, Sequence
from io import BufferedWriter
from pathlib import Path

import pyarrow as pa

from offaxis.files import atomically
from offaxis.table import TABLES, Row

Part = tuple[str, Sequence[Row]]
"""Some rows of the table named."""

_TABLE = b"table"


def spool(path: Path, parts: Iterable[Part]) -> None:
    """Write rows of several tables to one file, atomically: Arrow streams, one after another.

    Raises:
        ResultsError: If the disk is full or the folder cannot be written.
    """
    with atomically(path) as temporary, temporary.open("wb") as file:
        for table, rows in parts:
            if rows:
                _append(file, table, rows)


def _append(file: BufferedWriter, table: str, rows: Sequence[Row]) -> None:
    schema = TABLES[table].with_metadata({_TABLE: table})
    with pa.ipc.new_stream(file, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist(list(rows), schema=schema))


def unspool(path: Path) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield the rows of a file in the order in which they were written, each with its table."""
    with path.open("rb") as file:
        while file.peek(1):
            with pa.ipc.open_stream(file) as stream:
                table = stream.schema.metadata[_TABLE].decode()
                for batch in stream:
                    yield table, batch.replace_schema_metadata()
