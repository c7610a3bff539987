"""The state an interrupted run continues from: whole or not there, its own or not used.

    RUN/.resume/making/     a state being written
    RUN/.resume/step-12/    a Hugging Face folder with the optimizer, its schedule and the random
                            generators as `transformers.Trainer` keeps them, and
        memory_0.pt         what the run remembers: its log, its source, its constraint
        state.json          the marker, written last: whose state it is, and what its files hold

A new state is in its place before the one it follows is removed, so that there is always one.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from transformers import PreTrainedTokenizerBase

from offaxis.errors import ResultsError
from offaxis.files import disk_errors, settle, write_text
from offaxis.training.ranks import Ranks

_FORMAT = "offaxis-resume-1"
_MARKER = "state.json"


@runtime_checkable
class Remembering(Protocol):
    """What a run remembers beside weights and optimizer: tensors, numbers, texts in containers."""

    def state_dict(self) -> dict[str, Any]:
        """All there is to remember."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember it again."""
        ...


class Origin(NamedTuple):
    """What a state belongs to, and what made it.

    Attributes:
        recipe_hash: Another recipe's state is not used.
        made_by: Versions, and the number of processes: with others a run would not repeat.
    """

    recipe_hash: str
    made_by: dict[str, Any]


class States:
    """The states of one run.

    Attributes:
        making: Where a state is written before it is whole.
        seconds: How long writing the last one took.
    """

    def __init__(self, run: Path, origin: Origin) -> None:
        self.folder, self.origin = self.folder_of(run), origin
        self.making = self.folder / "making"
        self.seconds = 0.0
        self._memory: dict[str, Remembering] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @staticmethod
    def folder_of(run: Path) -> Path:
        """The folder of a run's states."""
        return run / ".resume"

    def path(self, step: int) -> Path:
        """The state of a step."""
        return self.folder / f"step-{step}"

    def latest(self) -> Path | None:
        """The newest state, unread."""
        return max(self.folder.glob("step-*"), key=step_of, default=None)

    def keep(self, tokenizer: PreTrainedTokenizerBase, memory: Mapping[str, object]) -> None:
        """Say what a state consists of beside what Trainer keeps; what remembers nothing is not."""
        self._tokenizer = tokenizer
        self._memory = {k: held for k, held in memory.items() if isinstance(held, Remembering)}

    def recall(self, state: Path, ranks: Ranks) -> None:
        """Give back to each part what it had to remember."""
        memory = torch.load(state / _memory_name(ranks), weights_only=True)
        for name, held in self._memory.items():
            held.load_state_dict(memory[name])

    @contextmanager
    def writing(self, step: int, ranks: Ranks) -> Iterator[None]:
        """Let every process fill `making/checkpoint-STEP` as Trainer does, then put it in place.

        Raises:
            ResultsError: If the disk is full or cannot be written; the state before it is kept.
        """
        began, made = time.monotonic(), self.making / f"checkpoint-{step}"
        try:
            with disk_errors(self.path(step)):
                if ranks.is_first:
                    shutil.rmtree(self.making, ignore_errors=True)
                    made.mkdir(parents=True)
                ranks.wait()
                yield
                memory = {name: held.state_dict() for name, held in self._memory.items()}
                torch.save(memory, made / _memory_name(ranks))
                ranks.wait()
                if ranks.is_first:
                    self._put(made, step)
                ranks.wait()
        finally:
            if ranks.is_first:
                shutil.rmtree(self.making, ignore_errors=True)
        self.seconds = time.monotonic() - began

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole state of this very recipe, and a line for each that is not used.

        Raises:
            ResultsError: If it was made by other versions or another number of processes.
        """
        notes: list[str] = []
        for path in sorted(self.folder.glob("step-*"), key=step_of, reverse=True):
            try:
                marker = json.loads((path / _MARKER).read_text("utf-8"))
                reason = self._unfit(path, marker)
            except (OSError, ValueError, TypeError, KeyError):
                reason = "it is not whole"
            if reason is None:
                self._check_maker(path, marker["made_by"])
                return path, notes
            notes.append(f"{path} is not continued from: {reason}")
        return None, notes

    @classmethod
    def remove_from(cls, run: Path) -> None:
        """Remove every state of a run that is finished."""
        shutil.rmtree(cls.folder_of(run), ignore_errors=True)

    def _put(self, made: Path, step: int) -> None:
        """Mark a state whose files are all there, and let it take the place of the older ones."""
        if self._tokenizer is not None:
            self._tokenizer.save_pretrained(made)
        marker = {"format": _FORMAT, "step": step, **self.origin._asdict()}
        marker["files"] = _digests(made)
        write_text(made / _MARKER, json.dumps(marker, indent=1, sort_keys=True))
        settle(made)
        path = self.path(step)
        shutil.rmtree(path, ignore_errors=True)
        made.rename(path)
        for other in self.folder.glob("step-*"):
            if other != path:
                shutil.rmtree(other, ignore_errors=True)

    def _unfit(self, path: Path, marker: dict[str, Any]) -> str | None:
        """Why a state cannot be used, or None."""
        if marker["format"] != _FORMAT or marker["step"] != step_of(path):
            return "it is of another format"
        if marker["recipe_hash"] != self.origin.recipe_hash:
            return "it is another recipe's"
        if marker["files"] != _digests(path):
            return "its files are not those that were written"
        return None

    def _check_maker(self, path: Path, maker: dict[str, Any]) -> None:
        now = self.origin.made_by
        changed = sorted(key for key in now if maker.get(key) != now[key])
        if changed:
            raise ResultsError(
                str(path),
                expected=", ".join(f"{key} {maker.get(key)}" for key in changed)
                + ", as before the interruption",
                found=", ".join(f"{key} {now[key]}" for key in changed),
                do="restore that for the run to continue bit for bit, or remove the run's folder "
                "to begin it again",
            )


def step_of(state: Path) -> int:
    """The step a state was left at."""
    number = state.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def _memory_name(ranks: Ranks) -> str:
    return f"memory_{ranks.index}.pt"


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file but the marker."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _MARKER:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            found[str(path.relative_to(folder))] = digest.hexdigest()
    return found
