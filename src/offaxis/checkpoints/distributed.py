"""torch's distributed checkpoints: `.metadata` and the `.distcp` files of the processes.

What `torch.distributed.checkpoint.save` writes, for FSDP2, torchtitan, Lightning and accelerate.
One tensor is read at a time, without a process group and without torch's reader of `.metadata`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.hashing import digest_of
from offaxis.checkpoints.parts import Part, joined, require_whole
from offaxis.checkpoints.pickled import as_of, dtype_name
from offaxis.checkpoints.trust import load_payload, own_file, read_dcp_metadata
from offaxis.errors import CheckpointError

_METADATA = ".metadata"
_BESIDE = re.compile(
    r"(?:[^.]+\.)?(?:optim|optimizers?|optimizer_states|optimizer_\d+"
    r"|lr_schedulers?|dataloader|train_state)\."
)
"""How trainers name what they save beside the model."""

_KEPT = 64  # metadata held, of a few megabytes at most for a dense model


class DistributedFolder:
    """One checkpoint folder, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _metadata(self) -> Metadata:
        return _metadata(self.path, as_of(own_file(self.path, _METADATA)))

    @cached_property
    def _weights(self) -> dict[str, TensorStorageMetadata]:
        found = {
            name: held
            for name, held in sorted(self._metadata.state_dict_metadata.items())
            if isinstance(held, TensorStorageMetadata) and not _BESIDE.match(name)
        }
        for name, held in found.items():
            require_whole(self._where(name), tuple(held.size), self._parts(name, held))
        if not found:
            raise CheckpointError(
                str(self.path),
                expected="the weights of a model",
                found=", ".join(sorted(self.left_out())) or "nothing",
                do="give the folder that the model was saved to",
            )
        return found

    def files(self) -> Sequence[Path]:
        """The files that hold the weights, and the one that says where."""
        named = {
            stored.relative_path
            for index, stored in self._metadata.storage_data.items()
            if index.fqn in self._weights
        }
        return [
            own_file(self.path, _METADATA),
            *(own_file(self.path, name) for name in sorted(named)),
        ]

    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor of the model, by its name in the saved state, from the metadata alone."""
        return {
            name: TensorInfo(name, tuple(held.size), dtype_name(held.properties.dtype))
            for name, held in self._weights.items()
        }

    def left_out(self) -> dict[str, str]:
        """What is stored beside the model's tensors, by where it stands in the saved state."""
        held = self._metadata.state_dict_metadata
        training = Counter(match[0] for name in held if (match := _BESIDE.match(name)))
        others = {
            name: "no tensor"
            for name, item in held.items()
            if not isinstance(item, TensorStorageMetadata) and not _BESIDE.match(name)
        }
        return others | {
            f"{place}*": f"state of the training, entries: {count}"
            for place, count in training.items()
        }

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a tensor joined from its shards, or entry `index` of its first axis."""
        held = self._weights[name]
        where, parts = self._where(name), self._parts(name, held)
        return joined(where, tuple(held.size), held.properties.dtype, parts, index)

    def digest(self) -> str:
        """Return the SHA-256 over the metadata and the weight files."""
        return digest_of(self.files())

    def _where(self, name: str) -> str:
        return f"tensor {name!r} in {self.path}"

    def _parts(self, name: str, held: TensorStorageMetadata) -> list[Part]:
        return [
            Part(
                tuple(chunk.offsets),
                tuple(chunk.sizes),
                partial(self._load, MetadataIndex(name, chunk.offsets)),
            )
            for chunk in held.chunks
            if chunk.sizes.numel() or len(held.chunks) == 1
        ]

    def _load(self, index: MetadataIndex) -> Tensor:
        stored = self._metadata.storage_data[index]
        file = own_file(self.path, stored.relative_path, where=self.path / _METADATA)
        return load_payload(file, stored.offset, stored.length)


@lru_cache(maxsize=_KEPT)
def _metadata(path: Path, state: tuple[int, int, int]) -> Metadata:
    """Read the metadata once for as long as its file stays as it is."""
    return read_dcp_metadata(path)
