"""DeepSpeed's universal checkpoints: `zero/NAME/fp32.pt`, the fp32 weights tensor by tensor.

What `ds_to_universal.py` writes: a dictionary with the weights as `param`, or from ZeRO stage 3 the
bare weights in one dimension, whose shapes are in the `*_model_states.pt` beside `zero`.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path

from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.hashing import digest_of
from offaxis.checkpoints.pickled import as_of, info_of, mapped, read
from offaxis.checkpoints.trust import load_pickle, own_file, require_pickle
from offaxis.errors import CheckpointError

_SLICE = "fp32.pt"
_KNOWN = 1 << 18  # headers kept, a few hundred bytes each


class UniversalFolder:
    """One universal checkpoint, opened where the user allows pickles."""

    def __init__(self, path: Path, access: Access) -> None:
        require_pickle(path, access)
        self.path, self._access = path, access

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the folder holds fp32 weights tensor by tensor."""
        return next(path.glob(f"zero/*/{_SLICE}"), None) is not None

    @cached_property
    def _home(self) -> dict[str, Path]:
        """The file of each tensor, by name."""
        names = sorted(file.parent.name for file in self.path.glob(f"zero/*/{_SLICE}"))
        return {n: own_file(self.path, f"zero/{n}/{_SLICE}", deep=True) for n in names}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what ZeRO stage 3 keeps in one dimension."""
        file = next(iter(sorted(self.path.glob("*_model_states.pt"))), None)
        groups = None if file is None else mapped(file, self._access).get("param_shapes")
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise CheckpointError(
                str(self.path if file is None else file),
                expected='the "param_shapes" of tensors that are stored in one dimension',
                found="none",
                do="keep the *_model_states.pt that ds_to_universal.py copies beside zero/",
            )
        return {str(name): tuple(shape) for group in groups for name, shape in group.items()}

    def files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        return list(self._home.values())

    def tensors(self) -> dict[str, TensorInfo]:
        """Everything stored, by name, without reading weights."""
        return {name: self._info(name) for name in self._home}

    def _info(self, name: str) -> TensorInfo:
        file = self._home[name]
        stored, is_bare = _header(name, file, self._access, as_of(file))
        shape = self._shapes.get(name) if is_bare and len(stored.shape) == 1 else None
        if shape is None:
            return stored
        if prod(shape) != prod(stored.shape):
            raise CheckpointError(
                str(file),
                expected=f"{prod(shape):,} entries, of shape {list(shape)}",
                found=f"{prod(stored.shape):,}",
                do="convert the checkpoint again with ds_to_universal.py",
            )
        return stored._replace(shape=shape)

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a stored tensor, or entry `index` of its first axis, in its stored dtype."""
        tensor, _ = _weights(self._home[name], self._access)
        return read(tensor.reshape(self._info(name).shape), index)

    def digest(self) -> str:
        """Return the SHA-256 over the weight files and their names, which name their tensors."""
        return digest_of(self.files(), self.path)


@lru_cache(maxsize=_KNOWN)
def _header(
    name: str, file: Path, access: Access, state: tuple[int, int, int]
) -> tuple[TensorInfo, bool]:
    """What a file says of its tensor, for as long as it stays as it is, and if it is bare."""
    tensor, is_bare = _weights(file, access)
    return info_of(name, tensor), is_bare


def _weights(file: Path, access: Access) -> tuple[Tensor, bool]:
    held = load_pickle(file, access)
    param = held.get("param") if isinstance(held, dict) else held
    if not isinstance(param, Tensor):
        raise CheckpointError(
            str(file),
            expected='a tensor, or a dictionary with one as "param"',
            found=type(param).__name__,
            do="convert the checkpoint again with ds_to_universal.py",
        )
    return param, param is held
