"""The results folder: its paths, its public schema, and how to read it. No torch here.

```
RESULTS/
  manifest.json          recipe, anchors, runs (arm, objective, seed), hashes, versions, definitions
  readings/<run>.parquet one row per reading, with its primary null beside it
  nulls/<run>.parquet    one row per null computed for a reading
  spectra/<run>.parquet  singular values of anchor, current and delta, one curve a row, descending
  angles/<run>.parquet   principal angles, left and right, one curve a row, ascending
  blocks/<run>.parquet   share of the delta's energy in the anchor's top-k blocks, one curve a row
  training/<run>.parquet what training logged, where the run folder has a log
  factors/<run>/<step>/<tensor>.safetensors   the unit of work: top-K factors of the delta
```

A change of a column or of its meaning raises `SCHEMA_VERSION`. Values are float64; a value that is
not defined is null, never NaN, and `flags` says why.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from offaxis.errors import ResultsError
from offaxis.files import atomically, write_text

RESULTS_FORMAT = "offaxis-results"
SCHEMA_VERSION = 2

Row = Mapping[str, Any]

_KEY = [
    ("run", pa.string()),
    ("step", pa.int64()),
    ("tensor", pa.string()),
    ("view", pa.string()),
    ("diagnostic", pa.string()),
    ("quantity", pa.string()),
    ("definition", pa.string()),
]

READINGS = pa.schema(
    [
        ("run", pa.string()),
        ("anchor", pa.string()),
        ("step", pa.int64()),
        ("tensor", pa.string()),
        ("view", pa.string()),
        ("layer", pa.int64()),
        ("role", pa.string()),
        ("rows", pa.int64()),
        ("cols", pa.int64()),
        ("diagnostic", pa.string()),
        ("quantity", pa.string()),
        ("definition", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("null", pa.string()),
        ("null_mean", pa.float64()),
        ("null_sd", pa.float64()),
        ("method", pa.string()),
        ("error_bound", pa.float64()),
        ("stored_precision", pa.string()),
        ("master_precision", pa.string()),
        ("compute_precision", pa.string()),
        ("flags", pa.string()),
    ]
)

NULLS = pa.schema(
    [
        *_KEY,
        ("null", pa.string()),
        ("mean", pa.float64()),
        ("sd", pa.float64()),
        ("draws", pa.int64()),
        ("method", pa.string()),
    ]
)

SPECTRA = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        ("tensor", pa.string()),
        ("view", pa.string()),
        ("precision", pa.string()),
        ("matrix", pa.string()),
        ("singular_values", pa.list_(pa.float64())),
    ]
)

ANGLES = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        ("tensor", pa.string()),
        ("view", pa.string()),
        ("precision", pa.string()),
        ("side", pa.string()),
        ("angles", pa.list_(pa.float64())),
    ]
)

BLOCKS = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        ("tensor", pa.string()),
        ("view", pa.string()),
        ("precision", pa.string()),
        ("inside", pa.list_(pa.float64())),
        ("isotropic", pa.list_(pa.float64())),
    ]
)

TRAINING = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        ("quantity", pa.string()),
        ("value", pa.float64()),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "readings": READINGS,
    "nulls": NULLS,
    "spectra": SPECTRA,
    "angles": ANGLES,
    "blocks": BLOCKS,
    "training": TRAINING,
}


MEASURED = tuple(name for name in TABLES if name != "training")
"""The tables that come from units."""

_GROUP_BYTES = 8 << 20
"""What a row group gathers in memory before it is written."""


class TableWriter:
    """One Parquet file, filled batch by batch; the bytes depend on the rows and their order."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._is_empty = True

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._held, self._schema).combine_chunks())
        self._held, self._held_bytes, self._is_empty = [], 0, False

    def close(self, *, whole: bool) -> None:
        """End the file; where it is not whole, leave out what is not written yet."""
        if whole and (self._held or self._is_empty):
            self._flush()
        self._writer.close()


def definition(version: int, settings: Mapping[str, object]) -> str:
    """Name a definition: its version, then its settings in order, as `v1;k=16;as=stored`."""
    return ";".join([f"v{version}", *(f"{key}={value}" for key, value in settings.items())])


def definition_settings(text: str) -> dict[str, str]:
    """Read the settings back out of a definition's name."""
    return dict(part.split("=", 1) for part in text.split(";")[1:])


_LONGEST_NAME = 180  # file systems take 255 bytes, of which a temporary name needs some


def _safe(name: str) -> str:
    """A file name for a run or tensor, whatever characters a stranger gave it."""
    quoted = quote(name, safe=" ") if name.strip(".") else f"_{name}"
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return f"{quoted[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class ResultsFolder:
    """Every path of one set of results, and their contents as Arrow tables."""

    root: Path

    @property
    def manifest_path(self) -> Path:
        """The file that says what was measured, of what, and how."""
        return self.root / "manifest.json"

    def part(self, table: str, run: str) -> Path:
        """The Parquet file that holds one run's rows of one table."""
        return self.root / table / f"{_safe(run)}.parquet"

    def spool(self, run: str) -> Path:
        """The folder that holds a run's rows while its tables are written."""
        return self.root / f".{_safe(run)}.rows"

    def lock(self, run: str) -> Path:
        """The file that a process holds while it measures a run."""
        return self.root / f".{_safe(run)}.lock"

    def factors(self, run: str, step: int, tensor: str) -> Path:
        """The unit file of one matrix (or view) of one checkpoint."""
        return self.root / "factors" / _safe(run) / str(step) / f"{_safe(tensor)}.safetensors"

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            ResultsError: If it is missing, damaged or of another version.
        """
        try:
            manifest: dict[str, Any] = json.loads(self.manifest_path.read_text("utf-8"))
            found = f"{manifest.get('format')!r}, version {manifest.get('version')!r}"
        except (OSError, ValueError, AttributeError) as error:
            raise self._unreadable(self.manifest_path, str(error)) from error
        if (manifest.get("format"), manifest.get("version")) != (RESULTS_FORMAT, SCHEMA_VERSION):
            raise self._unreadable(self.manifest_path, found)
        return manifest

    def write_manifest(self, content: Row) -> None:
        """Write the manifest, stamped with its format and version."""
        stamped = {"format": RESULTS_FORMAT, "version": SCHEMA_VERSION, **content}
        write_text(self.manifest_path, json.dumps(stamped, indent=2, sort_keys=True) + "\n")

    def write(self, table: str, run: str, rows: Iterable[Row]) -> None:
        """Write one run's rows of one table, atomically."""
        with self.writing(table, run) as writer:
            writer.add(pa.RecordBatch.from_pylist(list(rows), schema=TABLES[table]))

    @contextmanager
    def writing(self, table: str, run: str) -> Iterator[TableWriter]:
        """Fill one run's part of one table; it is there after the block, whole, or as before."""
        with atomically(self.part(table, run)) as path:
            writer, whole = TableWriter(path, TABLES[table]), False
            try:
                yield writer
                whole = True
            finally:
                writer.close(whole=whole)

    def read(self, table: str, runs: Sequence[str] | None = None) -> pa.Table:
        """Read one table of all runs, or of those named.

        Raises:
            ResultsError: If a file is missing or damaged.
        """
        schema = TABLES[table]
        names = [run["name"] for run in self.manifest()["runs"]] if runs is None else runs
        parts = [self.part(table, name) for name in names]
        if table == "training":  # only runs that kept a log have one
            parts = [path for path in parts if path.is_file()]
        return pa.concat_tables([schema.empty_table(), *(self._part(p, schema) for p in parts)])

    def _part(self, path: Path, schema: pa.Schema) -> pa.Table:
        try:
            return pq.read_table(path, schema=schema)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(path, str(error)) from error

    @staticmethod
    def _unreadable(path: Path, found: str) -> ResultsError:
        return ResultsError(
            str(path),
            expected=f"a file of {RESULTS_FORMAT}, schema version {SCHEMA_VERSION}",
            found=found,
            do="give the folder that `offaxis measure` wrote, or measure again",
        )
