"""What the cast to bf16 lets through of an update, for laws that are mixtures of Gaussians."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from scipy.special import roots_genlaguerre
from torch import Tensor

_LOW, _HIGH, _STEP = -6.0, 3.0, 1 / 16  # binary logarithms of the deviation in units
_PLACES = 33  # of a signal between two values of the grid
_NODES = 8
_SPREAD = 0.12  # variance of the squared scale below which a law is not told from a Gaussian
_MOST = 3.0  # variance of the squared scale beyond which no law is told


class Law(NamedTuple):
    """A law of variance one: scales of a Gaussian, and how often each occurs."""

    scales: Float64[Tensor, " k"]
    shares: Float64[Tensor, " k"]


def law_of(kurtosis: float) -> Law:
    r"""Return a law with this kurtosis: a Gaussian whose variance is gamma-distributed.

    3 is the Gaussian, 6 Laplace's law; below 3 it is the Gaussian.
    """
    spread = min(kurtosis / 3 - 1, _MOST)
    one = torch.ones(1, dtype=torch.float64)
    if spread < _SPREAD:
        return Law(one, one)
    nodes, weights = roots_genlaguerre(_NODES, 1 / spread - 1)
    return Law(torch.from_numpy(nodes * spread).sqrt(), torch.from_numpy(weights / weights.sum()))


class Passage(NamedTuple):
    """Gain and energy of a faint signal's noise, by the logarithm of its deviation in units."""

    gain: Float64[Tensor, " g"]
    energy: Float64[Tensor, " g"]


def passage_of(law: Law) -> Passage:
    r"""Tabulate the gain $E[f'(\Delta)]$ and $E[f(\Delta)^2]/E[\Delta^2]$ of the rounding f."""
    ratio = torch.outer(_grid().exp2(), law.scales)
    flat, one = ratio.flatten(), torch.ones(1, dtype=torch.float64)
    gain = signal_gain(flat, one).view_as(ratio) @ law.shares
    energy = (visible_share(flat).view_as(ratio) * law.scales.square()) @ law.shares
    return Passage(gain, energy)


def at(table: Float64[Tensor, " g"], ratio: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Look up a column of a passage at deviations in units."""
    place = ((ratio.log2() - _LOW) / _STEP).clamp(0, len(table) - 1.001)
    index = place.long()
    low: Tensor = table[index]
    return low + (place - index) * (table[index + 1] - low)


def _grid() -> Float64[Tensor, " g"]:
    return torch.arange(_LOW, _HIGH + _STEP / 2, _STEP, dtype=torch.float64)


def signal_gain(
    rms: Float64[Tensor, " lines"], units: Float64[Tensor, " u"]
) -> Float64[Tensor, "lines u"]:
    r"""Return how much of a faint signal inside a Gaussian update the cast to bf16 lets through.

    The cast of a Gaussian update is a multiple of it plus a distortion not correlated with it. For
    a weight on the grid the multiple is the density of $\Delta$ at the thresholds times the steps
    taken there, $u\sum_k\phi(t_k/\sigma)/\sigma$: 0 far below the spacing u, 1 far above it.

    Args:
        rms: Root mean squares of the update's entries, >= 0.
        units: Units in the last place, > 0.

    Returns:
        The multiple for each of both, in [0, 1] to 1e-8.

    Source:
        Bussgang 1952, "Crosscorrelation functions of amplitude-distorted Gaussian signals".
    """
    ratio = rms[:, None] / units
    k = torch.arange(12, dtype=ratio.dtype)[:, None, None]
    density = torch.exp(-((k + 0.5) / ratio).square() / 2).sum(0) / ratio * math.sqrt(2 / math.pi)
    return torch.where(ratio >= 1, 1.0, torch.where(ratio > 0, density, 0.0))


def visible_share(ratio: Float64[Tensor, " g"]) -> Float64[Tensor, " g"]:
    r"""Return $E[\text{round}(\sigma z)^2]/\sigma^2$ for rounding to units of one, sigma > 0."""
    k = torch.arange(1, 13, dtype=ratio.dtype)[:, None]
    step = torch.special.ndtr(-(k - 0.5) / ratio) - torch.special.ndtr(-(k + 0.5) / ratio)
    narrow = 2 * (k.square() * step).sum(0) / ratio.square()
    # Sheppard's correction is exact to 1e-8 once the deviation is a unit
    return torch.where(ratio < 1, narrow, 1 + 1 / (12 * ratio.square()))


def mean_rounded(
    signal: Float64[Tensor, " v"],
    unit: Float64[Tensor, " v"],
    sd: float | Float64[Tensor, " v"],
) -> Float64[Tensor, " v"]:
    r"""Return $E[\text{round}(x+\text{sd}\,z)]$ for rounding to multiples of a unit, z normal."""
    x, ratio = signal / unit, (sd / unit).clamp(max=1.0)
    whole = x.floor()
    steps = torch.arange(-5, 6, dtype=x.dtype)[:, None]
    above = torch.special.ndtr((x - whole - steps - 0.5) / ratio)
    mean = whole + torch.where(steps >= 0, above, above - 1).sum(0)
    return torch.where(ratio < 1, mean * unit, signal)  # to 1e-8 once the deviation is a unit


def rounded_means(law: Law) -> Float64[Tensor, "g places"]:
    """Tabulate the mean of what a signal between 0 and half a unit is rounded to under a law."""
    places = torch.linspace(0, 0.5, _PLACES, dtype=torch.float64)
    deviations = torch.outer(_grid().exp2(), law.scales).flatten().clamp(min=1e-9)
    x, sd = (y.flatten() for y in torch.broadcast_tensors(places, deviations[:, None]))
    means = mean_rounded(x, torch.ones_like(x), sd).view(-1, len(law.shares), _PLACES)
    return torch.einsum("gkp,k->gp", means, law.shares)


def rounded_mean(
    table: Float[Tensor, "g places"],
    signal: Float[Tensor, "*shape"],
    ratio: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """Look up the mean of a rounded signal, in units, under noise of deviations in units."""
    near = signal.round()
    beyond = signal - near
    row = ((ratio.log2() - _LOW) / _STEP).clamp(0, table.shape[0] - 1.001)
    col = (beyond.abs() * (2 * (_PLACES - 1))).clamp(max=_PLACES - 1.001)
    i, j = row.long(), col.long()
    flat, first = table.flatten(), i * _PLACES + j
    a, b = row - i, col - j
    low = torch.lerp(flat[first], flat[first + 1], b)
    high = torch.lerp(flat[first + _PLACES], flat[first + _PLACES + 1], b)
    found: Tensor = near + beyond.sign() * torch.lerp(low, high, a)
    return found
