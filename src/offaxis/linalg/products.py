"""Matrix products, each by the library that is fastest at it on the device at hand."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

COARSE = 2.0**-8
"""Relative rounding of an entry in a coarse product."""


def product(A: Float[Tensor, "a b"], B: Float[Tensor, "b c"]) -> Float[Tensor, "a c"]:
    """Return AB in the precision of its factors: OpenBLAS on the CPU, never TF32 elsewhere."""
    if A.device.type == "cpu":
        # OpenBLAS's vector tails raise floating-point flags over lanes that are then discarded
        with np.errstate(all="ignore"):
            return torch.from_numpy(A.numpy() @ B.numpy())
    with _full_precision():
        return A @ B


def coarse_product(
    A: Float[Tensor, "a b"], B: Float[Tensor, "b c"], *, block: int = 2048
) -> Float[Tensor, "a c"]:
    """Return AB in float32 from factors rounded to bfloat16, where the device multiplies those.

    Good for sums of squares: each entry carries a relative rounding of about 2^-8 of the norms of
    its row and column. Elsewhere the product is that of `product`.
    """
    if A.shape[1] == 0 or not _multiplies_bfloat16(A.device.type):
        return product(A.float(), B.float())
    total = A.new_zeros(A.shape[0], B.shape[1], dtype=torch.float32)
    for start in range(0, A.shape[1], block):
        part = slice(start, start + block)
        total += A[:, part].bfloat16() @ B[part].bfloat16()
    return total


@cache
def _multiplies_bfloat16(device: str) -> bool:
    if device != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextmanager
def _full_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def largest(A: Float[Tensor, "a b"]) -> float:
    """Return the largest magnitude in a matrix."""
    low, high = (A.T if A.stride(0) < A.stride(1) else A).aminmax()
    return max(-float(low), float(high))


def unit_of(magnitude: float, *, tame: int = 20) -> float:
    """Return a power of two near a magnitude; 1 where its exponent is below `tame`, or it is 0."""
    exponent = math.frexp(magnitude)[1]
    return 1.0 if magnitude == 0 or abs(exponent) < tame else math.ldexp(1.0, exponent)


def in_units(A: Float[Tensor, "a b"], unit: float, dtype: torch.dtype) -> Float[Tensor, "a b"]:
    """Return A / unit in the given precision, without a copy where nothing changes.

    Squares of what comes out neither overflow nor vanish if `unit` is `unit_of` its largest entry.
    """
    if unit == 1:
        return A.to(dtype)
    half = math.ldexp(1.0, (math.frexp(unit)[1] - 1) // 2)
    return (A / half / (unit / half)).to(dtype)
