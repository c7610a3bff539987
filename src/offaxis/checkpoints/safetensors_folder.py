"""Hugging Face folders: `model.safetensors`, whole or in shards named by an index."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.hashing import digest_of
from offaxis.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


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
            return [self._own(SINGLE)]
        if (self.path / INDEX).is_file():
            return [self._own(name) for name in sorted(set(self._weight_map.values()))]
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

    def _own(self, name: str) -> Path:
        """A file of this folder; the hub's cache may keep its bytes beside its snapshots."""
        file = self.path / name
        home = self.path.resolve()
        homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
        if Path(name).name != name or file.resolve().parent not in homes:
            raise CheckpointError(
                str(self.path / INDEX if name != SINGLE else file),
                expected="weights that lie in the checkpoint's own folder",
                found=repr(name) if Path(name).name != name else f"a link to {file.resolve()}",
                do="do not trust this checkpoint, or copy its weights into the folder",
            )
        if not file.is_file():
            raise CheckpointError(
                str(file),
                expected="a shard that the index names",
                found="no such file",
                do="fetch the missing shard, or save the checkpoint again",
            )
        return file

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
                        if name in found:
                            raise self._twice(name, found[name][1], file)
                        found[name] = (info, file)
            except (SafetensorError, OSError) as error:
                raise _damaged(file, error) from error
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
            raise _damaged(file, error) from error

    def digest(self) -> str:
        """Return the SHA-256 over the weight files, which names them, shards included."""
        return digest_of(self._files)


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        str(file),
        expected="a whole safetensors file",
        found=str(error),
        do="copy or save the file again: it is truncated or damaged",
    )
