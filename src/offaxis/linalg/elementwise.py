"""Everything entry by entry about a pair of matrices, in one pass over the stored bytes."""

import importlib
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped, UInt8
from torch import Tensor

from offaxis.linalg.rounding import cast, is_unchanged

Kernel = Literal["compiled", "plain"]

_CHUNK = 1 << 16
_MOST = 1 << 30  # entries of one call: a compiled count of 32 bits cannot overflow
_EQUALITY = 2.0**-9  # below it `is_unchanged` is equality of bf16 values


class Counts(NamedTuple):
    r"""What a pair of matrices shows entry by entry, delta = current - anchor.

    Attributes:
        entries: Number of entries.
        changed: Entries whose bf16 values differ, in the sense of `is_unchanged`.
        moved: Entries whose stored values differ.
        delta_squares: $\sum\delta^2$ of the stored values.
        anchor_squares: $\sum a^2$.
        current_squares: $\sum b^2$.
        product: $\sum ab$.
        delta_absolute: $\sum|\delta|$.
        delta_fourth: $\sum\delta^4$.
        largest: $\max|\delta|$.
        visible_squares: $\sum(\text{bf16}(b)-\text{bf16}(a))^2$.
        visible_fourth: The same of the fourth power.
        table: Entries by the exponent bits of the anchor's bf16 value, mask code, and whether
            changed.
    """

    entries: int
    changed: int
    moved: int
    delta_squares: float
    anchor_squares: float
    current_squares: float
    product: float
    delta_absolute: float
    delta_fourth: float
    largest: float
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
    r"""Count and sum over the entries of a pair, as stored.

    Integers are exact. Sums are of float64 terms in float64, except for two bf16 matrices under the
    compiled kernel, where groups of 1024 terms are summed in float32: the error is then below
    2^-14 of the sum of the terms' magnitudes whatever the order of addition, in practice 1e-8 for
    weights; groups that float32 cannot hold are summed in float64. Terms of float64 files overflow
    where $\delta^4$ does, at 1e77.

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
    for part in _chunks(a.numel(), _MOST if a.dtype == torch.bfloat16 else _CHUNK):
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


def profile(D: Float[Tensor, "m n"]) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " n"]]:
    """Return the sums of squares of the rows and of the columns, float64, in one pass."""
    rows = torch.zeros(D.shape[0], dtype=torch.float64, device=D.device)
    cols = torch.zeros(D.shape[1], dtype=torch.float64, device=D.device)
    height = max(_CHUNK // max(D.shape[1], 1), 1)
    for part in _chunks(D.shape[0], height):
        squares = D[part].double().square()
        rows[part] = squares.sum(1)
        cols += squares.sum(0)
    return rows, cols


def _compiled(
    kernels: ModuleType,
    a: Float[Tensor, " n"],
    b: Float[Tensor, " n"],
    codes: UInt8[Tensor, " n"] | None,
    total: Int64[Tensor, "256 16"],
) -> Counts:
    as_stored = a.dtype == b.dtype == torch.bfloat16
    changed = torch.zeros(256, 16, dtype=torch.int64)
    stored, visible, moved = np.zeros(7), np.zeros(7), 0
    first = _window(total, kernels.EXPONENTS)
    for part in _chunks(a.numel(), _MOST if as_stored else _CHUNK):
        x, y = (_unsigned(_rounded(W[part]).view(torch.int16)) for W in (a, b))
        kernels.pass_over(x, y, _codes(codes, part), first, changed.numpy(), visible)
        if not as_stored:
            wide_a, wide_b = a[part].double(), b[part].double()
            kernels.sums(wide_a.numpy(), wide_b.numpy(), stored)
            moved += int((wide_a != wide_b).sum())
    stored, moved = (visible, int(changed.sum())) if as_stored else (stored, moved)
    table = torch.stack([total.cpu() - changed, changed], dim=2)
    return _counts(a.numel(), moved, stored, visible, table)


def _plain(
    a: Float[Tensor, " n"],
    b: Float[Tensor, " n"],
    codes: UInt8[Tensor, " n"] | None,
    eta: float,
) -> Counts:
    table = torch.zeros(256, 16, 2, dtype=torch.int64)
    stored, visible, moved = np.zeros(7), np.zeros(7), 0
    for part in _chunks(a.numel(), _CHUNK):
        x, y = a[part].double(), b[part].double()
        near_x, near_y = _rounded(a[part]), _rounded(b[part])
        changed = ~is_unchanged(near_x.double()[None], near_y.double()[None], eta)[0]
        exponent = near_x.view(torch.int16).long() >> 7 & 0xFF
        key = (exponent * 16 + (0 if codes is None else codes[part])) * 2 + changed
        table += torch.bincount(key, minlength=table.numel()).view_as(table).cpu()
        for sums, (u, v) in ((stored, (x, y)), (visible, (near_x.double(), near_y.double()))):
            _add_sums(sums, u, v)
        moved += int((x != y).sum())
    return _counts(a.numel(), moved, stored, visible, table)


def _add_sums(sums: np.ndarray, a: Float64[Tensor, " n"], b: Float64[Tensor, " n"]) -> None:
    d = torch.where(a == b, 0.0, b - a).abs()  # two equal infinities differ by nothing
    terms = (d.square(), a.square(), b.square(), a * b, d, d.square().square())
    sums[:6] += torch.stack([term.sum() for term in terms]).cpu().numpy()
    sums[6] = max(sums[6], float(d.max()))


def _counts(
    entries: int, moved: int, stored: np.ndarray, visible: np.ndarray, table: Tensor
) -> Counts:
    dd, aa, bb, ab, absolute, fourth, largest = stored.tolist()
    return Counts(
        entries=entries,
        changed=int(table[:, :, 1].sum()),
        moved=moved,
        delta_squares=dd,
        anchor_squares=aa,
        current_squares=bb,
        product=ab,
        delta_absolute=absolute,
        delta_fourth=fourth,
        largest=largest,
        visible_squares=float(visible[0]),
        visible_fourth=float(visible[5]),
        table=table,
    )


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
def load() -> ModuleType | None:
    """Return the compiled loops, or None where numba is missing; late, numba loads slowly."""
    try:
        return importlib.import_module("offaxis.linalg.kernels")
    except ImportError:
        return None
