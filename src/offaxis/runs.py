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
from typing import Any

from offaxis.errors import CheckpointError
from offaxis.files import write_text

MANIFEST_FORMAT = "offaxis-run"
MANIFEST_VERSION = 1

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


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
            CheckpointError: If the file exists but is not a manifest of a known version.
        """
        if not self.manifest_path.is_file():
            return None
        try:
            manifest: dict[str, Any] = json.loads(self.manifest_path.read_text("utf-8"))
            known = (manifest.get("format"), manifest.get("version")) == (
                MANIFEST_FORMAT,
                MANIFEST_VERSION,
            )
        except (ValueError, AttributeError) as error:
            raise self._unreadable(str(error)) from error
        if not known:
            raise self._unreadable(f"format {manifest.get('format')!r}")
        return manifest

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write the manifest, stamped with its format and version."""
        stamped = {"format": MANIFEST_FORMAT, "version": MANIFEST_VERSION, **content}
        write_text(self.manifest_path, json.dumps(stamped, indent=2, sort_keys=True) + "\n")

    def log(self) -> list[dict[str, Any]]:
        """The log's lines, oldest first; empty where there is none."""
        if not self.log_path.is_file():
            return []
        lines = self.log_path.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    def _unreadable(self, found: str) -> CheckpointError:
        return CheckpointError(
            str(self.manifest_path),
            expected=f"a JSON manifest of format {MANIFEST_FORMAT}, version {MANIFEST_VERSION}",
            found=found,
            do="restore the file, or delete it and name the anchor with --anchor",
        )
