"""Matrix products, each by the library that is fastest at it on the device at hand."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def product(A: Float[Tensor, "a b"], B: Float[Tensor, "b c"]) -> Float[Tensor, "a c"]:
    """Return AB in the precision of its factors: OpenBLAS on the CPU, never TF32 elsewhere."""
    if A.device.type == "cpu":
        # OpenBLAS's vector tails raise floating-point flags over lanes that are then discarded
        with np.errstate(all="ignore"):
            return torch.from_numpy(A.numpy() @ B.numpy())
    with _full_precision():
        return A @ B


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
