"""Older Hugging Face folders: `pytorch_model.bin`, whole or in shards named by an index."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.hashing import digest_of
from offaxis.checkpoints.pickled import info_of, mapped, read
from offaxis.checkpoints.sharded import require_as_indexed, require_once, weight_map
from offaxis.checkpoints.trust import own_file, require_pickle
from offaxis.errors import CheckpointError

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"


class BinFolder:
    """One checkpoint folder of pickled weights, opened where the user allows it."""

    def __init__(self, path: Path, access: Access) -> None:
        require_pickle(path, access)
        self.path, self._access = path, access

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the folder holds pickled weights in Hugging Face's layout."""
        return (path / SINGLE).is_file() or (path / INDEX).is_file()

    @cached_property
    def _weight_map(self) -> dict[str, str] | None:
        """The index, which a whole model goes before, as in transformers."""
        return None if (self.path / SINGLE).is_file() else weight_map(self.path / INDEX)

    @cached_property
    def _files(self) -> list[Path]:
        if self._weight_map is None:
            return [own_file(self.path, SINGLE)]
        index = self.path / INDEX
        names = sorted(set(self._weight_map.values()))
        return [own_file(self.path, name, where=index) for name in names]

    @cached_property
    def _home(self) -> dict[str, Path]:
        """The file of each tensor."""
        found: dict[str, Path] = {}
        for file in self._files:
            for name, held in mapped(file, self._access).items():
                if isinstance(held, Tensor):
                    require_once(name, self.path, found.get(name), file)
                    found[name] = file
        if self._weight_map is not None:
            require_as_indexed(self.path / INDEX, self._weight_map, found)
        if not found:
            raise CheckpointError(
                str(self.path),
                expected="tensors by their names",
                found=", ".join(sorted(self.left_out())) or "nothing",
                do="save the model's state_dict() alone",
            )
        return dict(sorted(found.items()))

    def files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        return self._files

    def tensors(self) -> dict[str, TensorInfo]:
        """Everything stored, by name, without reading weights."""
        return {name: info_of(name, self._mapped(name)) for name in self._home}

    def _mapped(self, name: str) -> Tensor:
        tensor: Tensor = mapped(self._home[name], self._access)[name]
        return tensor

    def left_out(self) -> dict[str, str]:
        """What the files hold beside tensors."""
        states = [mapped(file, self._access) for file in self._files]
        return {
            name: f"{type(held).__name__}: no tensor"
            for state in states
            for name, held in state.items()
            if not isinstance(held, Tensor)
        }

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a stored tensor, or entry `index` of its first axis, in its stored dtype."""
        return read(self._mapped(name), index)

    def digest(self) -> str:
        """Return the SHA-256 over the weight files, which name their tensors, shards included."""
        return digest_of(self._files)
