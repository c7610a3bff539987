"""Hugging Face folders: `model.safetensors`, whole or in shards named by an index."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.trust.documents import read_object
from offaxis.checkpoints.trust.headers import damaged, read_header
from offaxis.checkpoints.trust.names import require_count
from offaxis.checkpoints.trust.places import own_file
from offaxis.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_MOST_SHARDS = 10_000


class SafetensorsFolder:
    """One checkpoint folder, opened for reading; links out of it are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the folder holds safetensors weights."""
        return (path / SINGLE).is_file() or (path / INDEX).is_file()

    @cached_property
    def _files(self) -> list[Path]:
        """The weight files; a whole model goes before an index, as in transformers."""
        if (self.path / SINGLE).is_file():
            return [own_file(self.path, SINGLE)]
        if (self.path / INDEX).is_file():
            return [own_file(self.path, name, where=self.path / INDEX) for name in self._shards()]
        raise CheckpointError(
            str(self.path),
            expected=f"a folder with {SINGLE} or {INDEX}",
            found="neither" if self.path.is_dir() else "no such folder",
            do="give the folder of a Hugging Face checkpoint in safetensors format",
        )

    @cached_property
    def _weight_map(self) -> dict[str, str]:
        mapping = read_object(self.path, INDEX).get("weight_map")
        if not isinstance(mapping, dict) or not all(type(v) is str for v in mapping.values()):
            raise CheckpointError(
                str(self.path / INDEX),
                expected='a "weight_map" from tensor names to shard files',
                found="none, or one of other things",
                do="restore the index that was saved with the shards",
            )
        return mapping

    def _shards(self) -> list[str]:
        shards = sorted(set(self._weight_map.values()))
        if len(shards) > _MOST_SHARDS:
            raise CheckpointError(
                str(self.path / INDEX),
                expected=f"at most {_MOST_SHARDS:,} shards",
                found=f"{len(shards):,}",
                do="do not trust this checkpoint: no trainer saves so many",
            )
        return shards

    @cached_property
    def _headers(self) -> dict[str, tuple[TensorInfo, Path]]:
        found: dict[str, tuple[TensorInfo, Path]] = {}
        for file in self._files:
            for name, info in read_header(file).items():
                if name in found:
                    raise self._twice(name, found[name][1], file)
                found[name] = (info, file)
            require_count(len(found), self.path)
        if not (self.path / SINGLE).is_file():
            self._require_as_indexed(found)
        return dict(sorted(found.items()))

    def _twice(self, name: str, first: Path, second: Path) -> CheckpointError:
        return CheckpointError(
            f"tensor {name!r} in {self.path}",
            expected="each tensor once",
            found=f"it in {first.name} and in {second.name}",
            do="save the checkpoint again: one of the two is left over from another save",
        )

    def _require_as_indexed(self, found: dict[str, tuple[TensorInfo, Path]]) -> None:
        """Every tensor in the shard that the index names for it, and in no other."""
        held = {name: file.name for name, (_, file) in found.items()}
        wrong = sorted(
            name
            for name in held.keys() | self._weight_map.keys()
            if held.get(name) != self._weight_map.get(name)
        )
        if wrong:
            name = wrong[0]
            raise CheckpointError(
                f"tensor {name!r}, {self.path / INDEX}",
                expected=f"it in {self._weight_map.get(name, 'no shard')}",
                found=f"it in {held.get(name, 'no shard')}"
                + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
                do="save the checkpoint again: index and shards do not belong together",
            )

    def files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        return self._files

    def tensors(self) -> dict[str, TensorInfo]:
        """Everything stored, by name, from headers alone."""
        return {name: info for name, (info, _) in self._headers.items()}

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a stored tensor, or entry `index` of its first axis, in its stored dtype."""
        _, file = self._headers[name]
        try:
            with safe_open(file, framework="pt") as handle:
                if index is None:
                    whole: Tensor = handle.get_tensor(name)
                    return whole
                part: Tensor = handle.get_slice(name)[index]
                return part
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error

    def digest(self) -> str:
        """Return the SHA-256 over the weight files, which names them, shards included."""
        total = hashlib.sha256()
        for file in self._files:
            try:
                with file.open("rb") as handle:
                    total.update(hashlib.file_digest(handle, "sha256").digest())
            except OSError as error:
                raise damaged(file, error) from error
        return total.hexdigest()
