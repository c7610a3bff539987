"""An update from two matrices as they are stored, with its norm and profile, in one pass."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offaxis.linalg.elementwise import load
from offaxis.linalg.products import largest

RELATIVE_ERROR = 128 * torch.finfo(torch.float64).eps
"""Of a norm, from sums of squares in float64."""

_BLOCK = 1 << 18  # entries subtracted at a time


class Difference(NamedTuple):
    """An update, and what was summed while it was formed.

    Attributes:
        D: b - a, in float32 for 16-bit formats, else in float64.
        norm: Frobenius norm, of the entries before they were rounded to float32.
        rounding: Frobenius norm of what that rounding took.
        row_norms: Norms of the rows.
        col_norms: Norms of the columns.
    """

    D: Float[Tensor, "m n"]
    norm: float
    rounding: float
    row_norms: Float64[Tensor, " m"]
    col_norms: Float64[Tensor, " n"]


def difference(
    a: Float[Tensor, "m n"], b: Float[Tensor, "m n"], *, loops: str | None = "subtraction"
) -> Difference:
    """Return b - a.

    The difference of two 16-bit numbers is exact in float32 unless one is below 2^-13 of the other;
    where it could overflow it is taken in float64.

    Args:
        a: Finite values of any floating-point format.
        b: Likewise, perhaps of another format.
        loops: The module of compiled loops, for pairs in bfloat16 on the CPU; None for the plain
            ones.
    """
    is_narrow = a.dtype.itemsize <= 2 and b.dtype.itemsize <= 2
    if is_narrow and max(a.dtype == torch.bfloat16, b.dtype == torch.bfloat16):
        is_narrow = largest(a) + largest(b) <= torch.finfo(torch.float32).max
    D = torch.empty_like(a, dtype=torch.float32 if is_narrow else torch.float64)
    rows, lost = (a.new_zeros(a.shape[0], dtype=torch.float64) for _ in range(2))
    cols = a.new_zeros(a.shape[1], dtype=torch.float64)
    compiled = None if loops is None else load(loops)
    is_bfloat16 = a.dtype == b.dtype == torch.bfloat16
    unit = 1.0
    if compiled is not None and is_narrow and is_bfloat16 and a.device.type == "cpu":
        x, y = (_bits(W) for W in (a, b))
        compiled.subtract(x, y, *(out.numpy() for out in (D, rows, cols, lost)))
    else:
        unit = 1.0 if is_narrow else _unit(a, b)
        _subtract(a, b, (D, rows, cols, lost), unit)
    norm, rounding = (unit * math.sqrt(math.fsum(sums.tolist())) for sums in (rows, lost))
    return Difference(D, norm, rounding, unit * rows.sqrt(), unit * cols.sqrt())


def _bits(W: Tensor) -> np.ndarray:
    return W.contiguous().view(torch.int16).numpy().view(np.uint16)


def _unit(a: Tensor, b: Tensor) -> float:
    """A power of two near the largest entry."""
    return math.ldexp(1.0, min(math.frexp(max(largest(a), largest(b)))[1], 1023))


Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def _subtract(a: Tensor, b: Tensor, outputs: Outputs, unit: float) -> None:
    D, rows, cols, lost = outputs
    height = max(1, _BLOCK // max(a.shape[1], 1))
    for start in range(0, a.shape[0], height):
        part = slice(start, start + height)
        exact = b[part].double() - a[part].double()
        D[part] = exact
        squares = (exact / unit).square()
        rows[part] = squares.sum(1)
        cols += squares.sum(0)
        lost[part] = ((exact - D[part].double()) / unit).square().sum(1)
