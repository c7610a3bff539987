"""What a cast to bfloat16 does to weights and to the updates they receive."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import BFloat16, Bool, Float, Float64, Int32, Int64
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor

_SMALLEST = 2.0**-133  # bf16's least subnormal
_INFINITY = 0x7F80  # its pattern; rounding treats it as the next value, 2^128


def cast(W: Float64[Tensor, "m n"], dtype: torch.dtype) -> Float64[Tensor, "m n"]:
    """Round to a storage format, to nearest with ties to even, and back to float64."""
    if dtype in (torch.float32, torch.float64):
        return W.to(dtype).double()
    # torch narrows by way of float32; rounding to odd there makes the second rounding the only one
    narrow = W.float()
    inexact = narrow.double() != W
    if bool(inexact.any()):
        bits = narrow.view(torch.int32)
        toward_zero = torch.where(narrow.double().abs() > W.abs(), bits - 1, bits)
        narrow = torch.where(inexact, toward_zero | 1, bits).view(torch.float32)
    return narrow.to(dtype).double()


def narrowed(W: Float[Tensor, "*shape"]) -> BFloat16[Tensor, "*shape"]:
    """Return a matrix as a bfloat16 file would hold it: to nearest, ties to even."""
    if W.dtype == torch.float64:
        W = cast(W.reshape(1, -1), torch.bfloat16).reshape(W.shape)
    return W.to(torch.bfloat16)


def is_unchanged(
    a: Float64[Tensor, "m n"], b: Float64[Tensor, "m n"], eta: float
) -> Bool[Tensor, "m n"]:
    r"""Return where $|b-a|\le\eta\max(|a|,|b|)$, for values already cast to bf16.

    Two zeros are unchanged whatever their signs, a zero and a non-zero are changed, and a value
    that the cast carried to infinity is unchanged only beside the same infinity. For
    $\eta<2^{-9}$ the rule is equality of bf16 values.

    Source:
        arXiv:2606.07082, section 3.1 and appendix C.3; arXiv:2511.08567, appendix E.
    """
    near = (b - a).abs() <= eta * torch.maximum(a.abs(), b.abs())
    return (a == b) | (near & a.isfinite() & b.isfinite())


class Grid(NamedTuple):
    """A matrix as bf16 sees it: its magnitudes, and how often each of them stands in which mask.

    Attributes:
        magnitudes: The distinct bf16 magnitudes, ascending.
        codes: How many entries have each magnitude and each 4-bit mask code.
        on_grid: Whether the matrix is made of bf16 values throughout.
        place: Which magnitude each entry has, where the matrix was at hand.
    """

    magnitudes: Tensor
    codes: Tensor
    on_grid: bool
    place: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """How many entries have each magnitude."""
        return self.codes.sum(1)


def grid_of(table: Int64[Tensor, "32768 16"], *, on_grid: bool) -> Grid:
    """Return the grid of a matrix from the counts of its bf16 patterns without sign.

    Args:
        table: How many entries have each bf16 magnitude (its 15 bits) and each mask code.
        on_grid: Whether the matrix is made of bf16 values throughout.
    """
    bits = table.sum(1).nonzero()[:, 0].int()
    return Grid(_value(bits), table[bits].double(), on_grid)


def grid(W: Float64[Tensor, "m n"]) -> Grid:
    """Return the bf16 magnitudes of W, and whether it is made of bf16 values throughout."""
    a = cast(W, torch.bfloat16)
    magnitudes, place, counts = a.abs().unique(return_inverse=True, return_counts=True)
    return Grid(magnitudes, counts.double()[:, None], bool((a == W).all()), place)


def true_rms(weights: Grid, visible_rms: float) -> float:
    r"""Return the rms of a Gaussian update whose bf16 image has the given rms.

    A bf16 file shows of an update only what the cast lets through: too little where steps are
    below half a unit in the last place, rounding noise on top elsewhere. Solved for the
    update that would have shown what was seen.

    Args:
        weights: The anchor on the bf16 grid.
        visible_rms: Root mean square of cast(current) - cast(anchor), >= 0.
    """
    if visible_rms == 0:
        return 0.0
    units, counts = (x.numpy() for x in _by_unit(spacing(weights.magnitudes), weights.counts))

    def excess(log_rms: float) -> float:
        seen = _visible_energy(units, counts, math.exp(log_rms), on_grid=weights.on_grid)
        return (seen - visible_rms**2) / (seen + visible_rms**2)

    low, high = math.log(visible_rms) - 24, math.log(visible_rms) + 12
    if excess(high) < 0:
        return math.exp(high)
    return math.exp(low if excess(low) >= 0 else brentq(excess, low, high, xtol=1e-14))


def _visible_energy(
    u: NDArray[np.float64], counts: NDArray[np.float64], rms: float, *, on_grid: bool
) -> float:
    r"""Mean square of what the cast shows, spacing taken as uniform around each weight.

    On the grid the visible step is the update rounded to units u, $\sum_k k^2u^2P(k)$. Off it,
    with w anywhere in its cell, it is $\Delta^2+u^2f(1-f)$ with f the fraction of $\Delta/u$.
    """
    ratio = rms / u
    k = np.arange(1, 13)[:, None]
    if on_grid:
        step = ndtr((k + 0.5) / ratio) - ndtr((k - 0.5) / ratio)
        # Sheppard's correction is exact to 1e-8 once the deviation is a unit
        energy = np.where(ratio < 1, 2 * (k**2 * step).sum(0), ratio**2 + 1 / 12)
    else:
        decay = np.exp(-2 * (math.pi * k * ratio) ** 2) / (math.pi * k) ** 2
        wide = ratio**2 + 1 / 6 - decay.sum(0)
        energy = np.where(ratio < 0.1, ratio * math.sqrt(2 / math.pi), wide)
    return float((counts * energy * u**2).sum() / counts.sum())


def spacing(a: Float64[Tensor, " v"], dtype: torch.dtype = torch.bfloat16) -> Float64[Tensor, " v"]:
    """Return one unit in the last place of a format at each magnitude."""
    exponent = torch.where(a == 0, -torch.inf, torch.frexp(a).exponent.double())
    digits = round(-math.log2(torch.finfo(dtype).eps)) + 1
    least = math.log2(torch.finfo(dtype).smallest_normal) + 1 - digits
    return torch.exp2((exponent - digits).clamp(min=least))


def passing(weights: Grid, rms: float, eta: float) -> Float64[Tensor, " v"]:
    r"""Return the chance that a Gaussian update, independent of W, survives the cast to bf16.

    With $\Delta\sim N(0,\text{rms}^2)$ the entry changes when $w+\Delta$ leaves the interval whose
    values round to what counts as unchanged. Where W lies on the bf16 grid that is half a unit in
    the last place to each side; where it does not, the position of w inside its rounding cell is
    averaged over: $P_\text{stay}=\frac1c\int_L^H[\Phi(\tfrac{H'-x}{\sigma})-
    \Phi(\tfrac{L'-x}{\sigma})]\,dx$, in closed form.

    Args:
        weights: The anchor on the bf16 grid.
        rms: Root mean square of the update's entries, >= 0.
        eta: The relative tolerance of `is_unchanged`.

    Returns:
        One probability for each magnitude.

    Source:
        arXiv:2511.08567, "Gate III"; the interval and its average are derived here.
    """
    a = weights.magnitudes
    if rms == 0:
        return torch.zeros_like(a)
    change: Tensor = 1 - staying(weights, rms, *_unchanged_interval(a, eta))
    return change


def staying(
    weights: Grid, rms: float, inner: Float64[Tensor, " v"], outer: Float64[Tensor, " v"]
) -> Float64[Tensor, " v"]:
    """Return the chance that a weight is inside an interval after a Gaussian update; see `passing`.

    Args:
        weights: The anchor on the bf16 grid.
        rms: Root mean square of the update's entries, > 0.
        inner: The lower end for each magnitude.
        outer: The upper end.
    """
    a = weights.magnitudes
    if weights.on_grid:
        stay = torch.special.ndtr((outer - a) / rms) - torch.special.ndtr((inner - a) / rms)
    else:
        low, high = cell_of(a)
        area = _cdf_integral((outer - low) / rms) - _cdf_integral((outer - high) / rms)
        area -= _cdf_integral((inner - low) / rms) - _cdf_integral((inner - high) / rms)
        stay = area * rms / (high - low)
    chance: Tensor = stay.clamp(0, 1)
    return chance


def gate(weights: Grid, rms: float, eta: float) -> Float64[Tensor, "m n"]:
    """Return `passing` for every entry of the matrix whose grid this is."""
    assert weights.place is not None, "this grid was counted without its matrix"
    return passing(weights, rms, eta)[weights.place]


class Spacings(NamedTuple):
    """The distinct units in the last place of a matrix's entries, and how often each occurs."""

    units: Tensor
    counts: Tensor


def spacings_of(exponents: Int64[Tensor, "256"], dtype: torch.dtype) -> Spacings:
    """Return the spacing of a storage format from the counts of float32 exponent fields."""
    binades = exponents.nonzero()[:, 0]
    return _by_unit(spacing(torch.exp2(binades.double() - 127), dtype), exponents[binades].double())


def _by_unit(u: Float64[Tensor, " v"], counts: Float64[Tensor, " v"]) -> Spacings:
    units, place = u.unique(return_inverse=True)
    return Spacings(units, torch.zeros_like(units).index_add(0, place, counts))


def rounding_noise(grid_of: Spacings, rms: float) -> tuple[float, float]:
    r"""Return mean and standard deviation of the norm of the rounding that storage adds.

    Each entry of an anchor on the format's grid is moved by a Gaussian of the given rms and rounded
    again: with u the spacing there, the error has variance $\frac{u^2}{12}
    +\frac{u^2}{\pi^2}\sum_k\frac{(-1)^k}{k^2}e^{-2\pi^2k^2\text{rms}^2/u^2}$, which is rms^2 for
    an update far below the spacing (all of it is lost) and u^2/12 far above.

    Source:
        Widrow & Kollár 2008, "Quantization Noise", doi:10.1017/CBO9780511754661 (the series).
    """
    u, counts = grid_of
    ratio = rms / u
    k = torch.arange(1, 13, dtype=u.dtype)[:, None]
    decay = torch.exp(-2 * (math.pi * k * ratio).square()) / k.square()
    series = torch.where(k % 2 == 0, decay, -decay).sum(0) / math.pi**2
    variance = torch.where(ratio < 0.1, u.new_tensor(rms**2), u.square() * (1 / 12 + series))
    mean = math.sqrt(float((counts * variance).sum()))
    # Var[x^2] is (4/5) Var[x]^2 of a uniform, 2 Var[x]^2 of a Gaussian: the larger, to be safe
    spread = math.sqrt(2 * float((counts * variance.square()).sum()))
    return mean, spread / (2 * mean) if mean > 0 else 0.0


def _unchanged_interval(
    a: Float64[Tensor, " v"], eta: float
) -> tuple[Float64[Tensor, " v"], Float64[Tensor, " v"]]:
    """The values that round to something within eta of a >= 0, as an interval."""
    highest = _bits((a / (1 - eta)).float(), toward_zero=True)
    lowest = _bits((a * (1 - eta)).float(), toward_zero=False)
    own = _bits(a.float(), toward_zero=True)
    return _cell_of_bits(torch.minimum(lowest, own))[0], _cell_of_bits(torch.maximum(highest, own))[
        1
    ]


def cell_of(a: Float64[Tensor, " v"]) -> tuple[Float64[Tensor, " v"], Float64[Tensor, " v"]]:
    """The interval of values that round to a, for a >= 0 on the bf16 grid."""
    return _cell_of_bits(_bits(a.float(), toward_zero=True))


def _bits(a: Tensor, *, toward_zero: bool) -> Int32[Tensor, " v"]:
    """The bf16 pattern next to a >= 0, from below or from above."""
    pattern = a.view(torch.int32)
    return pattern >> 16 if toward_zero else (pattern + 0xFFFF) >> 16


def _cell_of_bits(
    bits: Int32[Tensor, " v"],
) -> tuple[Float64[Tensor, " v"], Float64[Tensor, " v"]]:
    value = _value(bits)
    below = torch.where(bits > 0, _value(bits - 1), -_SMALLEST)
    return (below + value) / 2, (value + _value(bits + 1)) / 2


def _value(bits: Int32[Tensor, " v"]) -> Float64[Tensor, " v"]:
    finite = (bits.clamp(0, _INFINITY - 1) << 16).view(torch.float32).double()
    return torch.where(bits < _INFINITY, finite, 2.0**128)


def _cdf_integral(z: Float64[Tensor, " v"]) -> Float64[Tensor, " v"]:
    """The integral of the normal distribution function from minus infinity to z."""
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    integral: Tensor = z * torch.special.ndtr(z) + density
    return integral
