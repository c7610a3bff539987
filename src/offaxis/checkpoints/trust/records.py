"""What a distributed checkpoint holds, in torch's own classes, once every value was checked.

In a file of its own, because torch's package of such checkpoints takes a second to import.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from offaxis.checkpoints.trust.names import require_names
from offaxis.checkpoints.trust.places import own_file
from offaxis.checkpoints.trust.unpickling import METADATA, Record, StrangeError

Kind = TypeVar("Kind")


def described(folder: Path, held: object) -> Metadata:
    """Turn the passive data of `.metadata` into torch's description of a checkpoint.

    Args:
        folder: The checkpoint's folder, whose files must have the bytes that are claimed.
        held: What the pickle holds.

    Raises:
        StrangeError: If a value has not its type, or more is claimed than the files hold.
        CheckpointError: If a file that is named does not lie in the folder.
    """
    state = _state(held, "Metadata")
    tensors = {
        _text(name): _stored(value) for name, value in _mapping(state["state_dict_metadata"])
    }
    places = {_index(key): _place(value) for key, value in _mapping(state["storage_data"])}
    planner = state.get("planner_data")
    keys = {} if planner is None else {n: _keys(k) for n, k in _mapping(planner) if n in tensors}
    found = Metadata(tensors, keys, places, StorageMeta(), _text(state.get("version") or ""))
    require_names(tensors, folder / METADATA)
    _require_bytes(folder, found)
    return found


def _stored(held: object) -> TensorStorageMetadata | BytesStorageMetadata:
    if isinstance(held, Record) and type(held).__name__ == "BytesStorageMetadata":
        return BytesStorageMetadata()
    state = _state(held, "TensorStorageMetadata")
    size = _size(state["size"])
    chunks = [_chunk(chunk, size) for chunk in _typed(state["chunks"], list)]
    held_in_pieces = sum(math.prod(chunk.sizes) for chunk in chunks)
    if held_in_pieces != math.prod(size):
        raise StrangeError(f"pieces of {held_in_pieces:,} entries for a tensor {list(size)}")
    return TensorStorageMetadata(_properties(state["properties"]), size, chunks)


def _properties(held: object) -> TensorProperties:
    if not isinstance(held, Record) or type(held).__name__ != "TensorProperties":
        raise StrangeError(f"{_kind(held)} where a tensor's properties belong")
    return TensorProperties(dtype=_typed(_typed(held.state, tuple)[0], torch.dtype))


def _chunk(held: object, whole: torch.Size) -> ChunkStorageMetadata:
    state = _state(held, "ChunkStorageMetadata")
    offsets, sizes = _size(state["offsets"]), _size(state["sizes"])
    if len(offsets) != len(whole) or len(sizes) != len(whole):
        raise StrangeError(f"a piece of {len(sizes)} axes in a tensor of {len(whole)}")
    if any(o + s > n for o, s, n in zip(offsets, sizes, whole, strict=True)):
        raise StrangeError(f"a piece {list(sizes)} at {list(offsets)} of a tensor {list(whole)}")
    return ChunkStorageMetadata(offsets, sizes)


def _index(held: object) -> MetadataIndex:
    state = _state(held, "MetadataIndex")
    offset = state.get("offset")
    return MetadataIndex(_text(state["fqn"]), None if offset is None else _size(offset))


def _place(held: object) -> _StorageInfo:
    state = _state(held, "_StorageInfo")
    if state.get("transform_descriptors"):
        raise StrangeError("pieces that a writer's extension has transformed")
    offset, length = (_count(state[name]) for name in ("offset", "length"))
    return _StorageInfo(_text(state["relative_path"]), offset, length)


def _require_bytes(folder: Path, found: Metadata) -> None:
    """Hold what is claimed against the files' sizes, which none of them can exceed."""
    places = cast(dict[MetadataIndex, _StorageInfo], found.storage_data)
    sizes = {
        name: own_file(folder, name, where=folder / METADATA).stat().st_size
        for name in sorted({place.relative_path for place in places.values()})
    }
    for index, place in places.items():
        if place.offset + place.length > sizes[place.relative_path]:
            raise StrangeError(f"bytes of {index.fqn!r} beyond the end of {place.relative_path!r}")
    for name, held in found.state_dict_metadata.items():
        if not isinstance(held, TensorStorageMetadata):
            continue
        for chunk in held.chunks:
            stored = places.get(MetadataIndex(name, chunk.offsets))
            if stored is None:
                raise StrangeError(f"no place for the piece of {name!r} at {list(chunk.offsets)}")
            if math.prod(chunk.sizes) * held.properties.dtype.itemsize > stored.length:
                raise StrangeError(f"{stored.length:,} bytes for {list(chunk.sizes)} of {name!r}")


def _state(held: object, name: str) -> Mapping[str, Any]:
    if not isinstance(held, Record) or type(held).__name__ != name:
        raise StrangeError(f"{_kind(held)} where a {name} belongs")
    return cast(Mapping[str, Any], _typed(held.state, dict))


def _typed(held: object, kind: type[Kind]) -> Kind:
    if type(held) is not kind:
        raise StrangeError(f"{_kind(held)} where a {kind.__name__} belongs")
    return held


def _mapping(held: object) -> list[tuple[Any, Any]]:
    return list(_typed(held, dict).items())


def _text(held: object) -> str:
    return _typed(held, str)


def _count(held: object) -> int:
    number = _typed(held, int)
    if not 0 <= number < 1 << 62:
        raise StrangeError("a number of bytes or entries that is none")
    return number


def _size(held: object) -> torch.Size:
    axes = _typed(held, tuple)
    return torch.Size([_count(axis) for axis in axes])


def _keys(held: object) -> tuple[str | int, ...]:
    path = _typed(held, tuple)
    if not all(type(key) in (str, int) for key in path):
        raise StrangeError("a name made of other things than words and numbers")
    return cast(tuple[str | int, ...], path)


def _kind(held: object) -> str:
    """What something is, without a word of its content."""
    return f"a {type(held).__name__}"
