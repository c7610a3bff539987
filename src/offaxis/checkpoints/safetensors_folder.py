"""Hugging Face folders: `model.safetensors`, whole or in shards named by an index."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.hashing import digest_of
from offaxis.checkpoints.sharded import require_as_indexed, require_once, weight_map
from offaxis.checkpoints.trust.headers import damaged, read_header
from offaxis.checkpoints.trust.names import require_count
from offaxis.checkpoints.trust.places import own_file
from offaxis.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


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
            return [
                own_file(self.path, name, where=self.path / INDEX)
                for name in sorted(set(self._weight_map.values()))
            ]
        raise CheckpointError(
            str(self.path),
            expected=f"a folder with {SINGLE} or {INDEX}",
            found="neither" if self.path.is_dir() else "no such folder",
            do="give the folder of a Hugging Face checkpoint in safetensors format",
        )

    @cached_property
    def _weight_map(self) -> dict[str, str]:
        return weight_map(self.path / INDEX)

    @cached_property
    def _headers(self) -> dict[str, tuple[TensorInfo, Path]]:
        found: dict[str, tuple[TensorInfo, Path]] = {}
        for file in self._files:
            for name, info in read_header(file).items():
                require_once(name, self.path, found[name][1] if name in found else None, file)
                found[name] = (info, file)
            require_count(len(found), self.path)
        if not (self.path / SINGLE).is_file():
            held = {name: file for name, (_, file) in found.items()}
            require_as_indexed(self.path / INDEX, self._weight_map, held)
        return dict(sorted(found.items()))

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
        return digest_of(self._files)
