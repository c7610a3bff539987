"""Tables on disk, read a row at a time: JSON Lines, Parquet, folders of `datasets`."""

import json
import mmap
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offaxis.errors import RecipeError, ResultsError, require

# Rows that are decoded at a time while a Parquet file is made readable in any order.
_BATCH = 1024


@runtime_checkable
class Table(Protocol):
    """Rows by number, none of them a Python object before it is asked for."""

    @property
    def columns(self) -> list[str] | None:
        """The names of its columns; None where every row may have its own."""
        ...

    def __len__(self) -> int: ...

    def row(self, number: int) -> dict[str, Any]:
        """A row as Python objects."""
        ...

    def place(self, number: int) -> str:
        """Where a row stands, for messages."""
        ...


def open_table(path: Path, columns: Sequence[str]) -> Table:
    """Open a file or folder by what it is.

    Args:
        path: A `.jsonl` (or `.json`) file of one JSON object a line, a `.parquet` file, or a folder
            that `datasets` has saved to disk.
        columns: The top-level columns that will be asked for; others need not be decoded.

    Raises:
        RecipeError: If it is none of these, or cannot be read.
        UsageError: If `datasets` is needed and not installed.
    """
    if not path.exists():
        raise unreadable(path, "no such file or folder")
    try:
        if path.is_dir():
            return _DatasetsFolder(path, columns)
        if path.suffix == ".parquet":
            return _Parquet(path, columns)
        if path.suffix in (".jsonl", ".json"):
            return _JsonLines(path)
    except pa.ArrowInvalid as error:
        raise unreadable(path, str(error).splitlines()[0]) from error
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    raise unreadable(path, f"the ending {path.suffix!r}")


class _JsonLines:
    """JSON Lines: where each line begins is known, and a line is parsed when it is asked for."""

    columns = None

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.stat().st_size:  # an empty file cannot be mapped
            raise unreadable(path, "an empty file")
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        begins, lines, begin, line = [], [], 0, 0
        while begin < len(self._bytes):
            end = self._bytes.find(b"\n", begin)
            end = len(self._bytes) if end < 0 else end
            line += 1
            if self._bytes[begin:end].strip():
                begins.append(begin)
                lines.append(line)
            begin = end + 1
        self._begins, self._lines = np.array(begins), np.array(lines)

    def __len__(self) -> int:
        return len(self._begins)

    def row(self, number: int) -> dict[str, Any]:
        begin = int(self._begins[number])
        end = self._bytes.find(b"\n", begin)
        try:
            content = json.loads(self._bytes[begin : end if end >= 0 else len(self._bytes)])
        except ValueError as error:
            raise unreadable(self.place(number), str(error)) from error
        if not isinstance(content, dict):
            raise unreadable(self.place(number), type(content).__name__)
        return content

    def place(self, number: int) -> str:
        return f"{self.path}, line {self._lines[number]}"


class _Parquet:
    """Parquet: decoded once, batch by batch, into an Arrow file that is mapped into memory.

    Parquet cannot be read in any order without decoding a whole group of rows for each. The Arrow
    file is made when the first row is asked for, lies among the temporary files, has no name any
    more, and goes with the process.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            self.columns = list(file.schema_arrow.names)
            self._length = int(file.metadata.num_rows)
        self._kept = [name for name in columns if name in self.columns]

    @cached_property
    def _table(self) -> pa.Table:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            mapped = Path(folder) / "rows.arrow"
            try:
                self._decode(mapped)
            except OSError as error:
                raise ResultsError(
                    folder,
                    expected=f"room for the columns {', '.join(self._kept)} of {self.path}",
                    found=error.strerror or str(error),
                    do="free some space there, or point TMPDIR at a larger disk",
                ) from error
            return pa.ipc.open_file(pa.memory_map(str(mapped))).read_all()

    def _decode(self, target: Path) -> None:
        """Write the kept columns as an Arrow file."""
        with pq.ParquetFile(self.path, memory_map=True) as file:
            schema = pa.schema([file.schema_arrow.field(name) for name in self._kept])
            with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
                for batch in file.iter_batches(_BATCH, columns=self._kept):
                    out.write_batch(batch.select(self._kept))

    def __len__(self) -> int:
        return self._length

    def row(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = self._table.slice(number, 1).to_pylist()[0]
        return row

    def place(self, number: int) -> str:
        return f"{self.path}, row {number}"


class _DatasetsFolder:
    """A folder of `Dataset.save_to_disk`: Arrow files, mapped into memory."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        require("datasets", "data", str(path))
        from datasets import Dataset, load_from_disk  # noqa: PLC0415 - an extra

        self.path = path
        try:
            dataset = load_from_disk(str(path))
        except FileNotFoundError as error:
            raise unreadable(path, "a folder that `datasets` did not save") from error
        if not isinstance(dataset, Dataset):
            found = f"the splits {', '.join(dataset)}"
            raise unreadable(path, found, "name the folder of one split in it")
        self.columns = list(dataset.column_names)
        self._dataset = dataset.select_columns([c for c in columns if c in self.columns])

    def __len__(self) -> int:
        return len(self._dataset)

    def row(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = self._dataset[number]
        return row

    def place(self, number: int) -> str:
        return f"{self.path}, row {number}"


def unreadable(
    where: Path | str, found: str, do: str = "check the path in data.files, or correct the file"
) -> RecipeError:
    """The error of a file that is not what it should be."""
    return RecipeError(
        str(where),
        expected="JSON Lines (.jsonl, an object a line), Parquet (.parquet) or a folder saved by "
        "datasets",
        found=found,
        do=do,
    )
