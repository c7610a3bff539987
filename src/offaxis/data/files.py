"""The user's files as records: which rows are held out, and what each row says."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offaxis.data.base import Chat, Record, is_held_out, position
from offaxis.data.columns import OPTIONAL, Columns, at, reference_of
from offaxis.data.tables import Table, open_table
from offaxis.data.turns import completion_of, prompt_of, split_chat
from offaxis.errors import RecipeError


class FileRecords:
    """Rows of files, in a shuffled order of their own for every seed and epoch.

    Args:
        files: Where the rows of training are.
        columns: Which columns are read.
        evaluation_files: Where the held-out rows are; without them a fraction of `files` is.
        held_out: That fraction, of prompts: all rows of one prompt are on the same side.

    Raises:
        RecipeError: If a file cannot be read, lacks a column, or nothing is left on a side.
    """

    name = "data.files"

    def __init__(
        self,
        files: Sequence[str],
        columns: Columns,
        *,
        evaluation_files: Sequence[str] = (),
        held_out: float = 0.0,
    ) -> None:
        self._columns = columns
        self._files, self._evaluation_files = files, evaluation_files
        self._train = _Rows([self._opened(file) for file in files])
        self._evaluation = _Rows([self._opened(file) for file in evaluation_files])
        self._fraction = 0.0 if evaluation_files else held_out

    @property
    def num_problems(self) -> int:
        """The held-out rows."""
        return len(self._sides[1])

    def training(self, *, seed: int, index: int, attempt: int = 0) -> Record:
        """A row of training."""
        rows = self._sides[0]
        return self.record(int(rows[position(f"train/{seed}", len(rows), index, attempt)]))

    def held_out(self, *, seed: int, index: int, attempt: int = 0) -> Record:
        """A held-out row."""
        rows = self._sides[1]
        return self.record(int(rows[position(f"evaluation/{seed}", len(rows), index, attempt)]))

    def judge(self, item: int, completion: str) -> float | None:
        """Nothing: rows bring no rule, the recipe's `rewards` names one."""
        return None

    def record(self, item: int) -> Record:
        """A row by its number; those of the evaluation files come after those of training.

        Raises:
            RecipeError: If the row lacks what its columns should hold; it says which row.
        """
        rows, number = self._train, item
        if item >= len(rows):
            rows, number = self._evaluation, item - len(rows)
        row, place = rows.row(number), rows.place(number)
        columns = self._columns
        prompt: str | Chat
        if columns.messages:
            prompt, completion = split_chat(
                at(row, columns.messages), f"{place}, {columns.messages}"
            )
        else:
            prompt = prompt_of(row, columns.prompt, place)
            completion = at(row, columns.completion) if columns.completion else ""
            completion = completion_of(completion, f"{place}, {columns.completion}")
        return Record(prompt, completion, reference_of(row, columns.answer), item, place)

    def provenance(self) -> dict[str, Any]:
        """Every file with its size and SHA-256, and how many rows are on each side."""
        return {
            "files": [_fingerprint(Path(file)) for file in self._files],
            "evaluation_files": [_fingerprint(Path(file)) for file in self._evaluation_files],
            "training_rows": len(self._sides[0]),
            "held_out_rows": len(self._sides[1]),
        }

    def _opened(self, file: str) -> Table:
        """Open a table and refuse it where a column is missing."""
        needed = list(dict.fromkeys(path.split(".")[0] for path in self._columns.paths))
        table = open_table(Path(file), needed)
        known = table.columns
        missing = [name for name in needed if known is not None and name not in known]
        missing = [name for name in missing if name not in OPTIONAL]
        if missing:
            raise RecipeError(
                file,
                expected=f"the column {missing[0]}",
                found=f"the columns {', '.join(known or [])}",
                do="correct data.columns (or data.layout), or the file",
            )
        return table

    @cached_property
    def _sides(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of the rows of training and of the held-out rows.

        With a fraction this reads every prompt once.
        """
        every = np.arange(len(self._train))
        if self._fraction:
            is_out = np.array([self._is_held_out(int(item)) for item in every], dtype=bool)
            sides = every[~is_out], every[is_out]
        else:
            sides = every, len(self._train) + np.arange(len(self._evaluation))
        for rows, side, key in zip(
            sides, ("training", "evaluation"), ("files", "evaluation_files"), strict=True
        ):
            if not len(rows):
                raise RecipeError(
                    f"data.{key if not self._fraction else 'held_out'}",
                    expected=f"rows of {side}",
                    found=f"none among {len(every)}",
                    do="give more rows, another data.held_out, or data.evaluation_files",
                )
        return sides

    def _is_held_out(self, item: int) -> bool:
        prompt = self.record(item).prompt
        texts = [prompt] if isinstance(prompt, str) else [str(turn["content"]) for turn in prompt]
        return is_held_out("\n".join(texts), self._fraction)


class _Rows:
    """The rows of several tables, one after the other."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._ends = np.array(list(accumulate(map(len, tables))), dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, number: int) -> dict[str, Any]:
        table, number = self._found(number)
        return table.row(number)

    def place(self, number: int) -> str:
        table, number = self._found(number)
        return table.place(number)

    def _found(self, number: int) -> tuple[Table, int]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        return self._tables[which], number - (int(self._ends[which - 1]) if which else 0)


def _fingerprint(path: Path) -> dict[str, Any]:
    """What identifies a file, or the files of a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    size = sum(file.stat().st_size for file in files)
    return {"path": str(path), "bytes": size, "sha256": digest.hexdigest()}
