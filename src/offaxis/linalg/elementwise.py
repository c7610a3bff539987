"""Everything entry by entry about a pair of matrices, in one pass over the stored bytes."""

import importlib
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from offaxis.linalg.rounding import cast, is_unchanged

Kernel = Literal["compiled", "plain"]

_CHUNK = 1 << 16
_ROUNDED = 1 << 18  # entries rounded to bf16 at a time, in cache
_MOST = 1 << 30  # entries of one call: a compiled count of 32 bits cannot overflow
_EQUALITY = 2.0**-9  # below it `is_unchanged` is equality of bf16 values


class Counts(NamedTuple):
    r"""What a pair of matrices a, b shows entry by entry.

    Attributes:
        entries: Number of entries.
        changed: Entries whose bf16 values differ, in the sense of `is_unchanged`.
        visible_squares: $\sum d^2$ with $d=\text{bf16}(b)-\text{bf16}(a)$.
        visible_fourth: $\sum d^4$.
        table: Entries by the exponent bits of the anchor's bf16 value, mask code, and whether
            changed.
    """

    entries: int
    changed: int
    visible_squares: float
    visible_fourth: float
    table: Int64[Tensor, "256 16 2"]


def count(
    anchor: Float[Tensor, "*shape"],
    current: Float[Tensor, "*shape"],
    codes: UInt8[Tensor, "*shape"] | None,
    eta: float,
    *,
    strata: Int64[Tensor, "256 16"] | None = None,
    kernel: Kernel = "compiled",
) -> Counts:
    """Count and sum over the entries of a pair, as bf16 shows them.

    Integers are exact. Sums are of float64 terms in float64, except under the compiled kernel,
    where groups of 1024 terms are summed in float32: the error is then below 2^-14 of the sum
    whatever the order of addition, in practice 1e-8 for weights; groups that float32 cannot hold
    are summed in float64.

    Args:
        anchor: Finite values of any floating-point format.
        current: Likewise, perhaps of another format.
        codes: Mask codes below 16; None: 0 everywhere.
        eta: The relative tolerance of `is_unchanged`, >= 0.
        strata: `strata_of(magnitude_table(anchor, codes))`, counted here where it is not given: a
            pass more, so keep it for the next checkpoint.
        kernel: `compiled` runs numba where it is installed, the matrices are on the CPU and
            eta < 2^-9; `plain` never.

    Returns:
        The counts and sums; of an empty pair, zeros.
    """
    a, b = anchor.detach().reshape(-1), current.detach().reshape(-1)
    flat = None if codes is None else codes.reshape(-1)
    kernels = _kernels(kernel, a) if eta < _EQUALITY else None
    if kernels is None:
        return _plain(a, b, flat, eta)
    total = strata_of(magnitude_table(a, flat)) if strata is None else strata
    return _compiled(kernels, a, b, flat, total)


def magnitude_table(
    anchor: Float[Tensor, "*shape"],
    codes: UInt8[Tensor, "*shape"] | None,
    *,
    kernel: Kernel = "compiled",
) -> Int64[Tensor, "32768 16"]:
    """Count entries by the magnitude bits of their bf16 value and by mask code."""
    a = anchor.detach().reshape(-1)
    flat = None if codes is None else codes.reshape(-1)
    kernels = _kernels(kernel, a)
    table = torch.zeros(32768, 16, dtype=torch.int64)
    for part in _chunks(a.numel(), _MOST if a.dtype == torch.bfloat16 else _ROUNDED):
        bits = _rounded(a[part]).view(torch.int16)
        if kernels is not None:
            kernels.magnitudes(_unsigned(bits), _codes(flat, part), table.numpy())
            continue
        for small in _chunks(bits.numel(), _CHUNK):
            key = (bits[small].long() & 0x7FFF) * 16
            if flat is not None:
                key += flat[part][small]
            table += torch.bincount(key, minlength=table.numel()).view(32768, 16).cpu()
    return table


def strata_of(table: Int64[Tensor, "32768 16"]) -> Int64[Tensor, "256 16"]:
    """Sum a magnitude table over mantissas: entries by exponent bits and mask code."""
    return table.view(256, 128, 16).sum(1)


def _compiled(
    kernels: ModuleType,
    a: Float[Tensor, " n"],
    b: Float[Tensor, " n"],
    codes: UInt8[Tensor, " n"] | None,
    total: Int64[Tensor, "256 16"],
) -> Counts:
    changed, sums = torch.zeros(256, 16, dtype=torch.int64), np.zeros(2)
    first = _window(total, kernels.EXPONENTS)
    as_stored = a.dtype == b.dtype == torch.bfloat16
    for part in _chunks(a.numel(), _MOST if as_stored else _ROUNDED):
        x, y = (_unsigned(_rounded(W[part]).view(torch.int16)) for W in (a, b))
        kernels.pass_over(x, y, _codes(codes, part), first, changed.numpy(), sums)
    table = torch.stack([total.cpu() - changed, changed], dim=2)
    squares, fourth = sums.tolist()
    return Counts(a.numel(), int(changed.sum()), squares, fourth, table)


def _plain(
    a: Float[Tensor, " n"],
    b: Float[Tensor, " n"],
    codes: UInt8[Tensor, " n"] | None,
    eta: float,
) -> Counts:
    table = torch.zeros(256, 16, 2, dtype=torch.int64)
    squares = fourth = 0.0
    for part in _chunks(a.numel(), _CHUNK):
        near_a, near_b = _rounded(a[part]), _rounded(b[part])
        x, y = near_a.double(), near_b.double()
        changed = ~is_unchanged(x[None], y[None], eta)[0]
        exponent = near_a.view(torch.int16).long() >> 7 & 0xFF
        key = (exponent * 16 + (0 if codes is None else codes[part])) * 2 + changed
        table += torch.bincount(key, minlength=table.numel()).view_as(table).cpu()
        square = torch.where(x == y, 0.0, y - x).square()  # equal infinities differ by nothing
        squares += float(square.sum())
        fourth += float(square.square().sum())
    return Counts(a.numel(), int(table[:, :, 1].sum()), squares, fourth, table)


def _window(total: Int64[Tensor, "256 16"], width: int) -> int:
    """The first of the `width` consecutive exponents that hold the most entries."""
    return int(total.sum(1).cpu().unfold(0, width, 1).sum(1).argmax())


def _rounded(W: Shaped[Tensor, " n"]) -> Shaped[Tensor, " n"]:
    """The nearest bf16 values, ties to even."""
    if W.dtype == torch.float64:
        W = cast(W[None], torch.bfloat16)[0]
    return W.to(torch.bfloat16)


def _unsigned(bits: Shaped[Tensor, " n"]) -> np.ndarray:
    return bits.numpy().view(np.uint16)


def _codes(codes: UInt8[Tensor, " n"] | None, part: slice) -> np.ndarray:
    return np.empty(0, np.uint8) if codes is None else codes[part].numpy()


def _chunks(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _kernels(kernel: Kernel, W: Tensor) -> ModuleType | None:
    return load() if kernel == "compiled" and W.device.type == "cpu" else None


@cache
def load(loops: str = "kernels") -> ModuleType | None:
    """Return a module of compiled loops, or None without numba; late, numba loads slowly."""
    try:
        return importlib.import_module(f"offaxis.linalg.{loops}")
    except ImportError:
        return None
