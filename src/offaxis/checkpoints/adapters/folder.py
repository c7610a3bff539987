"""PEFT's folders: a LoRA adapter, opened with the base that it changes."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.adapters.layout import Factors, Part, parts_of
from offaxis.checkpoints.adapters.settings import CONFIG, Settings, read_settings
from offaxis.checkpoints.base import CheckpointReader, Holding, LowRank, TensorInfo, left_out
from offaxis.checkpoints.bin_folder import BinFolder
from offaxis.checkpoints.hashing import digest_of
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.checkpoints.trust import own_file
from offaxis.errors import CheckpointError

SINGLE = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"

_ENTRIES = 1 << 18  # multiplied at a time


class AdapterFolder:
    """An adapter on its base: the base's tensors, those that it adapts with their updates added.

    What is adapted is read in float64, as W0 + dW from the adapter's stored factors: no file holds
    the sum, which a merge would round once more.

    Args:
        path: The folder, of PEFT's layout.
        access: What the user allows.
        base: The base; None where there is none, as when files are hashed alone. What the adapter
            says of where it was is never followed.
    """

    def __init__(self, path: Path, access: Access, base: CheckpointReader | None) -> None:
        self.path = path
        self.base = None if base is None else base.path
        self._access, self._given = access, base

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the folder holds an adapter of PEFT."""
        return any((path / name).is_file() for name in (CONFIG, SINGLE, PICKLED))

    @cached_property
    def settings(self) -> Settings:
        """What its configuration says."""
        return read_settings(self.path)

    @cached_property
    def stored(self) -> CheckpointReader:
        """The adapter's own tensors; safetensors go before a pickle, as in PEFT."""
        if (self.path / PICKLED).is_file() and not (self.path / SINGLE).is_file():
            return BinFolder(self.path, self._access, PICKLED)
        return SafetensorsFolder(self.path, SINGLE)

    @property
    def _base(self) -> CheckpointReader:
        if self._given is None:
            raise CheckpointError(
                str(self.path),
                expected="the model that this adapter was trained on",
                found="an adapter alone, which holds nothing but a change",
                do="give that model's folder with --anchor, or with --base beside another anchor",
            )
        return self._given

    @cached_property
    def _parts(self) -> dict[str, Part]:
        return parts_of(self.path, self.settings, self.stored.tensors(), self._base.tensors())

    def files(self) -> Sequence[Path]:
        """The settings and the weights."""
        return [own_file(self.path, CONFIG), *self.stored.files()]

    def tensors(self) -> dict[str, TensorInfo]:
        """Everything that the adapted model holds, by name, from headers alone."""
        found = dict(self._base.tensors())
        for name, part in self._parts.items():
            info = found.get(name) if part.tensor is None else self.stored.tensors()[part.tensor]
            assert info is not None, "an update is of a tensor of the base"
            dtype = info.dtype if self.holding(name) == "tensor" else "float64"
            found[name] = TensorInfo(name, info.shape, dtype)
        return dict(sorted(found.items()))

    def holding(self, name: str) -> Holding:
        """What the adapter has of a tensor."""
        part = self._parts.get(name)
        if part is None:
            return "nothing"
        return "tensor" if part.factors is None and part.bias is None else "update"

    def update(self, name: str, index: int | None = None) -> LowRank | None:
        """The update of a tensor, or of one entry of its first axis, relative to the base."""
        part = self._parts.get(name)
        if part is None:
            return self._nothing(name)
        factors = part.factors
        if factors is None or factors.magnitude is not None or not self._starts_at_base(name, part):
            return None
        return self._low_rank(factors, index)

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a tensor, or entry `index` of its first axis: float64 where it is adapted."""
        part = self._parts.get(name, Part())
        if index is not None and part.factors is not None and part.factors.entries is None:
            return self.read(name)[index]
        source = self._base.read if part.tensor is None else self.stored.read
        W = source(part.tensor or name, index)
        if part.bias is not None:
            key, scale = part.bias
            return W.double() + scale * self.stored.read(key).double()
        if part.factors is None:
            return W
        if part.factors.entries is not None and index is None:
            W = W.to(torch.float64, copy=True)
            for entry, one in enumerate(W):
                _add(one, self._low_rank(part.factors, entry))
            return W
        W = W.to(torch.float64, copy=True)
        _add(W, self._low_rank(part.factors, index))
        if part.factors.magnitude is not None:
            _renorm(W, self.stored.read(part.factors.magnitude), part.factors.is_transposed)
        return W

    def digest(self) -> str:
        """Return the SHA-256 over settings and weights."""
        return digest_of(self.files())

    def left_out(self) -> dict[str, str]:
        """What the base and the adapter's file hold beside weights."""
        return left_out(self._base) | left_out(self.stored)

    def _low_rank(self, factors: Factors, index: int | None) -> LowRank:
        A, B = (self.stored.read(name).double() for name in (factors.A, factors.B))
        if factors.entries is not None:
            assert index is not None, "one update for each entry"
            A = A.reshape(factors.entries, -1, A.shape[1])[index]
            B = B.reshape(B.shape[0], -1, factors.entries)[:, :, index]
        A = factors.scale * A.T
        return LowRank(A, B.contiguous()) if factors.is_transposed else LowRank(B, A)

    def _starts_at_base(self, name: str, part: Part) -> bool:
        """Whether what is adapted is the base's tensor: embeddings are saved with their adapter."""
        if part.tensor is None:
            return True
        own, held = self.stored.read(part.tensor), self._base.read(name)
        return own.dtype == held.dtype and torch.equal(own, held)

    def _nothing(self, name: str) -> LowRank | None:
        shape = self._base.tensors()[name].shape
        if len(shape) < 2:
            return None
        return LowRank(*(torch.zeros(n, 0, dtype=torch.float64) for n in shape[-2:]))


def _add(W: Tensor, update: LowRank) -> None:
    """Add an update in place, without its whole product."""
    height = max(1, _ENTRIES // max(W.shape[1], 1))
    for rows, left in zip(W.split(height), update.left.split(height), strict=True):
        rows.addmm_(left, update.right.T)


def _renorm(W: Tensor, magnitude: Tensor, is_transposed: bool) -> None:
    """Give every output the norm that DoRA has learnt for it."""
    norms = torch.linalg.vector_norm(W, dim=0 if is_transposed else 1)
    factor = magnitude.double().reshape(-1) / norms
    W.mul_(factor if is_transposed else factor[:, None])
