"""Headers of safetensors files, before the library parses them.

The library holds offsets, shapes and dtypes against the file's bytes itself; here are its header's
size, double keys, which it lets pass, and what no model has: tensors, axes, names out of measure.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.trust.documents import LARGEST, parse_object
from offaxis.checkpoints.trust.names import require_names
from offaxis.errors import CheckpointError

MOST_AXES = 16
_LENGTH = 8  # bytes before the header, which say how long it is
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return what a safetensors file holds, by name.

    Raises:
        CheckpointError: If the header is damaged, too large, or not one that a trainer writes.
    """
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(_LENGTH), "little")
            if length > LARGEST:
                raise ValueError(f"a header of {length:,} bytes, more than {LARGEST:,}")
            header = parse_object(handle.read(length))
        header.pop("__metadata__", None)
        require_names(header, file)
        _require_axes(header)
        with safe_open(file, framework="pt") as opened:
            return {name: _info(name, opened.get_slice(name)) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, OverflowError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> CheckpointError:
    """Say that a safetensors file cannot be read."""
    return CheckpointError(
        str(file),
        expected="a whole safetensors file",
        found=str(error),
        do="copy or save the file again: it is truncated or damaged",
    )


def _require_axes(header: dict[str, Any]) -> None:
    for name, entry in header.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if isinstance(shape, list) and len(shape) > MOST_AXES:
            raise ValueError(f"{name[:80]!r} with {len(shape):,} axes")


def _info(name: str, part: Any) -> TensorInfo:  # noqa: ANN401 - the library has no types
    dtype = str(part.get_dtype())
    return TensorInfo(name, tuple(part.get_shape()), _DTYPES.get(dtype, dtype))
