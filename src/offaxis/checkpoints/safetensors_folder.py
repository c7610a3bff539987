"""Hugging Face folders: `model.safetensors`, whole or in shards named by an index."""

import hashlib
import json
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from offaxis.checkpoints.base import TensorInfo
from offaxis.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsFolder:
    """One checkpoint folder, opened for reading. Nothing outside it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the folder holds safetensors weights."""
        return (path / SINGLE).is_file() or (path / INDEX).is_file()

    @cached_property
    def _files(self) -> list[Path]:
        if (self.path / INDEX).is_file():
            return [self._shard(name) for name in sorted(set(self._weight_map.values()))]
        if (self.path / SINGLE).is_file():
            return [self.path / SINGLE]
        raise CheckpointError(
            str(self.path),
            expected=f"a folder with {SINGLE} or {INDEX}",
            found="neither" if self.path.is_dir() else "no such folder",
            do="give the folder of a Hugging Face checkpoint in safetensors format",
        )

    @cached_property
    def _weight_map(self) -> dict[str, str]:
        index = self.path / INDEX
        try:
            mapping = json.loads(index.read_text("utf-8"))["weight_map"]
            return {str(name): str(shard) for name, shard in mapping.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                str(index),
                expected='a JSON object with a "weight_map" from tensor names to shard files',
                found=f"{type(error).__name__}: {error}",
                do="restore the index that was saved with the shards",
            ) from error

    def _shard(self, name: str) -> Path:
        shard = self.path / name
        if Path(name).name != name or shard.resolve().parent != self.path.resolve():
            raise CheckpointError(
                str(self.path / INDEX),
                expected="shards that lie in the checkpoint's own folder",
                found=repr(name),
                do="do not trust this checkpoint, or copy its shards into the folder",
            )
        if not shard.is_file():
            raise CheckpointError(
                str(shard),
                expected="a shard that the index names",
                found="no such file",
                do="fetch the missing shard, or save the checkpoint again",
            )
        return shard

    @cached_property
    def _headers(self) -> dict[str, tuple[TensorInfo, Path]]:
        found: dict[str, tuple[TensorInfo, Path]] = {}
        for file in self._files:
            try:
                with safe_open(file, framework="pt") as handle:
                    for name in handle.keys():  # noqa: SIM118 - not a mapping
                        header = handle.get_slice(name)
                        dtype = str(header.get_dtype())
                        info = TensorInfo(
                            name, tuple(header.get_shape()), _DTYPES.get(dtype, dtype)
                        )
                        found[name] = (info, file)
            except (SafetensorError, OSError) as error:
                raise _damaged(file, error) from error
        self._require_indexed(found)
        return dict(sorted(found.items()))

    def _require_indexed(self, found: dict[str, tuple[TensorInfo, Path]]) -> None:
        if not (self.path / INDEX).is_file():
            return
        absent = sorted(set(self._weight_map) - set(found))
        if absent:
            raise CheckpointError(
                str(self.path / INDEX),
                expected="every indexed tensor in its shard",
                found=f"{len(absent)} missing, the first {absent[0]!r}",
                do="save the checkpoint again: index and shards do not belong together",
            )

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
            raise _damaged(file, error) from error

    def digest(self) -> str:
        """Return the SHA-256 over the weight files' contents."""
        total = hashlib.sha256()
        for file in self._files:
            try:
                with file.open("rb") as handle:
                    total.update(hashlib.file_digest(handle, "sha256").digest())
            except OSError as error:
                raise _damaged(file, error) from error
        return total.hexdigest()


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        str(file),
        expected="a whole safetensors file",
        found=str(error),
        do="copy or save the file again: it is truncated or damaged",
    )
