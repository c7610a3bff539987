"""The run folder: where training leaves its checkpoints, and what it says about itself.

```
RUN/
  manifest.json     what was run: name, arm, objective, seed, recipe, precision, versions
  recipe.toml       the resolved recipe, which reproduces the run alone
  log.jsonl         one JSON object a line: {"step": 12, "loss": ..., "reward": ...}
  checkpoint-0/     the start, a Hugging Face folder
  checkpoint-12/    ...
```
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from offaxis.errors import CheckpointError
from offaxis.files import write_text

MANIFEST_FORMAT = "offaxis-run"
MANIFEST_VERSION = 1

_LARGEST = 1 << 30
"""Bytes of a manifest or a log, which a stranger may have written."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class _Manifest(BaseModel):
    """What readers of a manifest rely on; other keys are the trainer's own."""

    model_config = ConfigDict(strict=True, extra="allow")

    version: Literal[1]
    name: str | None = None
    arm: str | None = None
    objective: str | None = None
    seed: int | None = None
    anchor: str | None = None
    precision: dict[str, str] | None = None
    steps: list[int] | None = None
    finished: bool = False


@dataclass(frozen=True)
class RunFolder:
    """Every path of one run."""

    root: Path

    @property
    def manifest_path(self) -> Path:
        """The file that says what was run."""
        return self.root / "manifest.json"

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.toml"

    @property
    def log_path(self) -> Path:
        """The training log, one JSON object a line."""
        return self.root / "log.jsonl"

    def checkpoint(self, step: int) -> Path:
        """The folder of one step's weights."""
        return self.root / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint folder, ascending."""
        if not self.root.is_dir():
            return []
        found = (_CHECKPOINT.fullmatch(p.name) for p in self.root.iterdir() if p.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None where another trainer left the folder.

        Raises:
            CheckpointError: If the file is ours but damaged, or of a version we do not know.
        """
        if not self.manifest_path.is_file():
            return None
        try:
            manifest = json.loads(self._text(self.manifest_path))
        except (OSError, ValueError, RecursionError) as error:
            raise self._unreadable(str(error)) from error
        if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
            return None  # a stranger's file of the same name
        try:
            _Manifest.model_validate(manifest)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise self._unreadable(f"{place}: {first['msg']}") from error
        return manifest

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write the manifest, stamped with its format and version."""
        stamped = {"format": MANIFEST_FORMAT, "version": MANIFEST_VERSION, **content}
        write_text(self.manifest_path, json.dumps(stamped, indent=2, sort_keys=True) + "\n")

    def log(self) -> list[dict[str, Any]]:
        """The log's lines, oldest first; empty where there is none.

        A last line without an end is what an interruption leaves, and is dropped.

        Raises:
            CheckpointError: If a line is not a JSON object with an integer `step`.
        """
        if not self.log_path.is_file():
            return []
        try:
            whole = self._text(self.log_path).rpartition("\n")[0].splitlines()
        except (OSError, ValueError) as error:
            raise self._bad_log(0, str(error)) from error
        return [self._log_line(number, text) for number, text in enumerate(whole, 1) if text]

    def _text(self, file: Path) -> str:
        """What a file of this folder says; a link out of it is not followed."""
        if file.resolve().parent != self.root.resolve():
            raise OSError(f"a link to {file.resolve()}")
        if file.stat().st_size > _LARGEST:
            raise OSError(
                f"{file.stat().st_size:,} bytes, more than the {_LARGEST:,} that are read"
            )
        return file.read_text("utf-8")

    def _log_line(self, number: int, text: str) -> dict[str, Any]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._bad_log(number, str(error)) from error
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            raise self._bad_log(number, text[:80])
        return line

    def _bad_log(self, number: int, found: str) -> CheckpointError:
        return CheckpointError(
            f"{self.log_path}, line {number}",
            expected='a JSON object with an integer "step"',
            found=found,
            do="mend the line, or move the log out of the run folder",
        )

    def _unreadable(self, found: str) -> CheckpointError:
        return CheckpointError(
            str(self.manifest_path),
            expected=f"a JSON manifest of format {MANIFEST_FORMAT}, version {MANIFEST_VERSION}",
            found=found,
            do="restore the file, or delete it and name the anchor with --anchor",
        )
