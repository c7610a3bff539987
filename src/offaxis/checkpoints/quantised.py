"""Quantised weights: refused unless the user allows them, and then read where they are fp8.

A number of fp8 is a float, which its scale multiplies; four bits and integers are packed in as many
ways as there are libraries, and stay refused. What fp8 has rounded off is in every difference: of
normally distributed weights 2.6 % of their norm in e4m3, 5.3 % in e5m2.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import CheckpointReader, TensorInfo
from offaxis.checkpoints.trust.documents import read_object
from offaxis.errors import CheckpointError

CONFIG = "config.json"
FLOATS_OF_8_BITS = ("float8_e4m3fn", "float8_e5m2")
_SCALES = ("_scale_inv", "_scale")  # either multiplies, whatever it is called
_FP8_METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt")
_OF_METHODS = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
_NO_FLOATS = ("uint8", "int8", "int16", "int32", "int64", "U8", "I8", "I16", "I32", "I64")


def as_floats(reader: CheckpointReader, access: Access) -> CheckpointReader:
    """Return a reader of plain floating-point weights, where that is allowed and can be.

    Raises:
        CheckpointError: If the weights are quantised, and this is not allowed or not fp8.
    """
    method, stored = method_of(reader.path), reader.tensors().values()
    eighths = [info.dtype for info in stored if info.dtype in FLOATS_OF_8_BITS]
    if method is None and not eighths:
        return reader
    is_packed = any(info.dtype in _NO_FLOATS and len(info.shape) > 1 for info in stored)
    if is_packed or method not in (None, *_FP8_METHODS):
        named = method or eighths[0]
        raise _refused(reader.path, f"{named}, whose numbers are packed or integers", "")
    if not access.quantised:
        way = "; or add --allow-quantised, with which fp8 is read and flagged"
        raise _refused(reader.path, method or eighths[0], way)
    return Dequantised(reader)


def is_quantised(reader: CheckpointReader, name: str) -> bool:
    """Whether a tensor was stored in fewer bits than it is read in."""
    return isinstance(reader, Dequantised) and name in reader.scales


def method_of(path: Path) -> str | None:
    """How the weights of a folder were quantised, by its configuration; None where they were not.

    Raises:
        CheckpointError: If the configuration cannot be read.
    """
    if not (path / CONFIG).is_file():
        return None
    config = read_object(path, CONFIG)
    inner = config.get("text_config")
    for held in (config, inner if isinstance(inner, dict) else {}):
        asked: Any = held.get("quantization_config") or held.get("compression_config")
        if asked:
            named = asked.get("quant_method") if isinstance(asked, dict) else None
            return str(named or "a quantization_config without a quant_method")
    return next((m for name, m in _OF_METHODS.items() if (path / name).is_file()), None)


class Dequantised:
    """A checkpoint with weights in fp8, read as float32: numbers times their scales.

    Attributes:
        scales: By fp8 tensor, the tensor that scales it; None where nothing does.
    """

    def __init__(self, reader: CheckpointReader) -> None:
        self._reader = reader
        self._stored = reader.tensors()
        self._block = _block_of(reader.path)
        self.scales: dict[str, str | None] = {
            name: next((name + end for end in _SCALES if name + end in self._stored), None)
            for name, info in self._stored.items()
            if info.dtype in FLOATS_OF_8_BITS
        }
        for name, scale in self.scales.items():
            if scale is not None:
                self._grid(name, scale)

    @property
    def path(self) -> Path:
        """The folder that was opened."""
        return self._reader.path

    def files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        return self._reader.files()

    def tensors(self) -> dict[str, TensorInfo]:
        """Everything stored but the scales, which are in the weights."""
        scales = set(self.scales.values())
        return {
            name: info._replace(dtype="float32") if name in self.scales else info
            for name, info in self._stored.items()
            if name not in scales
        }

    def read(self, name: str, index: int | None = None) -> Tensor:
        """Return a tensor, or entry `index` of its first axis, scaled where it was stored so."""
        numbers = self._reader.read(name, index)
        if name not in self.scales:
            return numbers
        scale = self.scales[name]
        if scale is None:
            return numbers.float()
        grid = self._grid(name, scale)
        factors = self._reader.read(scale).float().reshape([parts for parts, _ in grid])
        if index is not None:
            factors = factors[index // grid[0][1]]
            grid = grid[1:]
        for axis, (n, (parts, each)) in enumerate(zip(numbers.shape, grid, strict=True)):
            if parts > 1:
                factors = factors.repeat_interleave(each, axis).narrow(axis, 0, n)
        return numbers.float() * factors

    def digest(self) -> str:
        """Return a hash of the weight files."""
        return self._reader.digest()

    def _grid(self, name: str, scale: str) -> list[tuple[int, int]]:
        """Along each axis of a weight, how many scales there are, and how many entries share one.

        Raises:
            CheckpointError: If the scales do not lie on a grid over the weight.
        """
        whole, scales = self._stored[name].shape, self._stored[scale].shape
        if math.prod(scales) == 1:
            scales = (1,) * len(whole)
        elif scales == whole[:1]:
            scales = (*scales, *(1 for _ in whole[1:]))
        blocks = [0] * (len(whole) - len(self._block)) + [*self._block]
        found = list(map(_share, whole, scales, blocks)) if len(scales) == len(whole) else [None]
        grid = [(parts, each) for parts, each in zip(scales, found, strict=False) if each]
        if len(grid) < len(whole):
            raise CheckpointError(
                f"tensor {name!r} in {self.path}",
                expected="one scale, or a grid of them over the weight",
                found=f"scales {list(scales)} for {list(whole)}",
                do="give the checkpoint as it was before it was quantised",
            )
        return grid


def _share(n: int, parts: int, block: int) -> int | None:
    """How many of `n` entries share each of `parts` scales; the last may have fewer."""
    if block and -(-n // block) == parts:
        return block
    return n // parts if parts and n % parts == 0 else None


def _block_of(path: Path) -> tuple[int, ...]:
    """The rows and columns that share a scale, where the configuration says so."""
    held = read_object(path, CONFIG) if (path / CONFIG).is_file() else {}
    asked = held.get("quantization_config")
    block = asked.get("weight_block_size") if isinstance(asked, dict) else None
    is_block = isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block)
    return tuple(block) if is_block and block and min(block) > 0 else ()


def _refused(path: Path, found: str, way: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        expected="weights as they were trained, not quantised",
        found=f"weights quantised by {found}",
        do="give the checkpoint from before it was quantised: the difference to this one is mostly "
        f"its rounding{way}",
    )
