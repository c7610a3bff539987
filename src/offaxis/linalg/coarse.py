"""Products for sums of squares: from factors rounded to eight-bit integers, or to bfloat16."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int8
from numpy.typing import NDArray
from torch import Tensor

from offaxis.linalg.elementwise import load
from offaxis.linalg.products import product

COARSE = 2.0**-5
"""Relative rounding of a coarse product at most, in Frobenius norm, spread over its entries."""

LEVELS = 127
FINER = 128  # the remainder, at most half a level, in finer ones
_BITS = (
    6  # of a line's largest entry; steps between bfloat16 values then mostly round to themselves
)
_SLICE = COARSE / math.sqrt(2)  # what each factor may contribute
_FEW = 512
_DEPTH = 1 << 16  # products of two bytes that int32 adds up safely
_BLOCK = 1 << 22  # entries of the product at a time


def coarse_product(
    A: Float[Tensor, "a b"], B: Float[Tensor, "b c"], *, loops: str | None = "slicing"
) -> Float32[Tensor, "a c"]:
    r"""Return AB to `COARSE` of its factors' norms: three to seven times quicker than float32.

    On CPUs that multiply bytes (VNNI) the rows of A and the columns of B are rounded to 64 to 127
    levels each way, and what that leaves to finer ones where it is more than $2^{-5.5}$ of the
    norm, as where few entries are much larger than the others. Each line is scaled so that what is
    left is orthogonal to it, and energies are not biased. Elsewhere than on the CPU factors are
    rounded to bfloat16; on other CPUs, and for sums of fewer than 512 products, in which errors do
    not average out, the product is that of `product`.

    Args:
        A: A factor.
        B: Another.
        loops: The module of compiled loops; None for the plain ones.
    """
    if A.device.type != "cpu":
        return (A.bfloat16() @ B.bfloat16()).float()
    if A.shape[1] < _FEW or 0 in (A.shape[0], B.shape[1]) or not _multiplies_bytes():
        return product(A.float(), B.float())
    compiled = None if loops is None else load(loops)
    left, right = sliced(A, 1, compiled), sliced(B, 0, compiled)
    C = torch.zeros(A.shape[0], B.shape[1], dtype=torch.float32)
    height = max(1, _BLOCK // B.shape[1])
    for start in range(0, A.shape[0], height):
        rows = slice(start, start + height)
        for pair in _pairs(left.rows(rows), right):
            _add_product(C[rows], pair, compiled)
    return C


class Sliced(NamedTuple):
    """A matrix as (first + second / 128) times the unit of each line."""

    first: Int8[Tensor, "a b"]
    second: Int8[Tensor, "a b"] | None
    unit: Tensor

    def rows(self, rows: slice) -> "Sliced":
        """Some rows of a matrix whose lines are rows."""
        second = None if self.second is None else self.second[rows]
        return Sliced(self.first[rows], second, self.unit[rows])


def sliced(A: Float[Tensor, "a b"], dim: int, loops: ModuleType | None) -> Sliced:
    """Round the lines along a dimension to bytes; twice where once leaves too much."""
    if A.stride(0) < A.stride(1):
        first, second, unit = sliced(A.T, 1 - dim, loops)
        return Sliced(first.T, None if second is None else second.T, unit.T)
    A = A.float() if A.stride(1) == 1 else A.float().contiguous()
    largest = _largest(A, dim, loops)
    exponent = torch.frexp(largest).exponent - 1 - _BITS
    unit, scale = (torch.ldexp(largest.sign(), sign * exponent) for sign in (1, -1))
    first = torch.empty(A.shape, dtype=torch.int8)
    inner, square, energy = (_first_slice if loops is None else _compiled_slice(loops))(
        A, dim, scale, first
    )
    fit = torch.where(square > 0, inner / square.clamp(min=1), 1.0)
    squared = unit.double().square()
    lost = (energy - fit * inner).clamp(min=0) * squared
    if float(lost.sum()) <= _SLICE**2 * float((energy * squared).sum()):
        return Sliced(first, None, (unit * fit).float())
    second = torch.empty(A.shape, dtype=torch.int8)
    if loops is None:
        _second_slice(A, scale, first, second)
    else:
        given = _entries(A), A.stride(0), scale.numpy(), first.numpy(), second.numpy()
        loops.second_slice(*given)
    return Sliced(first, second, unit)


def _entries(A: Float32[Tensor, "a b"]) -> NDArray[np.float32]:
    """What lies in memory from the first entry to the last one."""
    length = (A.shape[0] - 1) * A.stride(0) + A.shape[1]
    return A.as_strided((length,), (1,)).numpy()


def _largest(
    A: Float32[Tensor, "a b"], dim: int, loops: ModuleType | None
) -> Float32[Tensor, "a_or_1 b_or_1"]:
    if loops is None:
        return torch.maximum(A.amax(dim, keepdim=True), -A.amin(dim, keepdim=True))
    largest = torch.empty(A.shape[1 - dim], dtype=torch.float32)
    find = loops.largest_by_row if dim == 1 else loops.largest_by_column
    find(_entries(A), A.stride(0), A.shape[dim], largest.numpy())
    return largest.unsqueeze(dim)


Sums = tuple[Tensor, Tensor, Tensor]


def _first_slice(A: Tensor, dim: int, scale: Tensor, out: Tensor) -> Sums:
    """Round to bytes; return what `slicing.first_slice` sums."""
    scaled = A * scale
    rounded = scaled.round().clamp_(-LEVELS, LEVELS)
    out.copy_(rounded)
    x, r = scaled.double(), rounded.double()
    inner, square, energy = ((a * b).sum(dim, keepdim=True) for a, b in ((x, r), (r, r), (x, x)))
    return inner, square, energy


def _compiled_slice(loops: ModuleType) -> Callable[[Tensor, int, Tensor, Tensor], Sums]:
    def sliced_by(A: Tensor, dim: int, scale: Tensor, out: Tensor) -> Sums:
        inner, square, energy = torch.zeros(3, A.shape[1 - dim], dtype=torch.float64)
        given = _entries(A), A.stride(0), scale.numpy(), out.numpy()
        loops.first_slice(*given, inner.numpy(), square.numpy(), energy.numpy())
        return inner.unsqueeze(dim), square.unsqueeze(dim), energy.unsqueeze(dim)

    return sliced_by


def _second_slice(A: Tensor, scale: Tensor, first: Tensor, out: Tensor) -> None:
    out.copy_((A * scale).sub_(first).mul_(FINER).round_().clamp_(-LEVELS, LEVELS))


class _Pair(NamedTuple):
    left: Int8[Tensor, "a b"]
    right: Int8[Tensor, "b c"]
    left_unit: Tensor
    right_unit: Tensor


def _pairs(left: Sliced, right: Sliced) -> Iterator[_Pair]:
    """The products of slices that matter: all but that of the two finer ones."""
    yield _Pair(left.first, right.first, left.unit, right.unit)
    if left.second is not None:
        yield _Pair(left.second, right.first, left.unit / FINER, right.unit)
    if right.second is not None:
        yield _Pair(left.first, right.second, left.unit, right.unit / FINER)


def _add_product(C: Float32[Tensor, "a c"], pair: _Pair, loops: ModuleType | None) -> None:
    """Add the product of integers, in units of the left factor's rows and the right's columns."""
    for start in range(0, pair.left.shape[1], _DEPTH):
        part = slice(start, start + _DEPTH)
        integers = torch._int_mm(pair.left[:, part], pair.right[part])
        if loops is None:
            C += integers.float() * (pair.left_unit * pair.right_unit)
        else:
            units = pair.left_unit.numpy(), pair.right_unit.numpy()
            loops.add_scaled(integers.numpy(), *units, C.numpy())


@cache
def _multiplies_bytes() -> bool:
    return bool(torch.cpu._is_vnni_supported())
