"""The spikes of an update without what the cast to bf16 hid of them."""

import math
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float64
from torch import Generator, Tensor

from offaxis.linalg.debias import Corrected, summarise
from offaxis.linalg.rounding import spacing

_PAIRS = 1 << 16  # entries drawn to follow the spikes through the cast
_FEWEST = 1 << 12
_ROUNDS = 30
_SETTLED = 1e-4
_BLOCK = 1 << 17
_FOLLOWED = 1 << 13  # pairs whose rounding is averaged at a time


def restore_spikes(
    corrected: Corrected,
    U: Float64[Tensor, "m k"],
    V: Float64[Tensor, "n k"],
    anchor: BFloat16[Tensor, "m n"],
    *,
    rms: float,
    generator: Generator,
) -> Corrected:
    r"""Return the spikes of the update behind a bf16 file, from those that the file shows.

    For an anchor on the bf16 grid. A signal L inside an update whose rest is noise of standard
    deviation $\tau$ shows as $M(L)=E[\text{round}(L+\tau z)]$, entry by entry; rows and columns of
    heavier weights pass less. The true directions are taken as the visible ones over the mean gain
    of their rows and columns; the strengths are those for which $u_k^TM(L)v_k$ is what was seen,
    by fixed point on a sample of the entries. Measured on planted spikes in Gaussian updates of
    matrices with an LLM's scales: a visible fraction of 0.9 goes with a top spike of 0.7 of its
    strength, and restored it is within 3 %. Below 0.5 it should not be trusted.

    Args:
        corrected: The visible spikes without their noise.
        U: Their left singular vectors, in the same order.
        V: Their right singular vectors.
        anchor: The anchor.
        rms: Root mean square of the true update's entries.
        generator: Draws the sample.

    Returns:
        Strengths and shares of the true update's energy, rms^2 mn.
    """
    m, n = anchor.shape
    energy, values = rms**2 * m * n, corrected.values
    if corrected.stable_rank is None:
        return summarise(values, energy)
    units, rows, cols = _binades(anchor)
    pairs = min(_PAIRS, max(_FEWEST, m * n // 8))
    i, j = (torch.randint(0, d, (pairs,), generator=generator) for d in (m, n))
    shown, unit = U[i].mul_(V[j]), spacing(anchor[i, j].double().abs())
    x, true_U, true_V = values, U, V
    for _ in range(_ROUNDS):
        rest = max(rms**2 - float(x.square().sum()) / (m * n), 0.01 * rms**2)
        row_rms = (rest + true_U.square() @ x.square() / n).sqrt()
        col_rms = (rest + true_V.square() @ x.square() / m).sqrt()
        true_U = _true_directions(U, rows, units, row_rms)
        true_V = _true_directions(V, cols, units, col_rms)
        signal = true_U[i].mul_(true_V[j]) @ x
        passed = (shown * _passed(signal, unit, math.sqrt(rest))[:, None]).sum(0)
        aligned = (U * true_U).sum(0) * (V * true_V).sum(0)
        x, last = values / (aligned * passed / (shown * signal[:, None]).sum(0)).clamp(min=0.02), x
        if float((x / last - 1).abs().max()) < _SETTLED:
            break
    return summarise(x, energy)


def _passed(signal: Tensor, unit: Tensor, sd: float) -> Tensor:
    """What the cast lets through on average, a stretch of pairs at a time."""
    parts = zip(signal.split(_FOLLOWED), unit.split(_FOLLOWED), strict=True)
    return torch.cat([mean_rounded(*part, sd) for part in parts])


class _Binades(NamedTuple):
    """The units in the last place that a matrix has, and their shares in its rows and columns."""

    units: Float64[Tensor, " u"]
    rows: Float64[Tensor, "m u"]
    cols: Float64[Tensor, "n u"]


def _binades(anchor: BFloat16[Tensor, "m n"]) -> _Binades:
    m, n = anchor.shape
    seen = torch.stack([_fields(b).flatten().bincount(minlength=256) for b in _blocks(anchor)])
    fields = seen.sum(0).nonzero()[:, 0]
    u = len(fields)
    index = torch.zeros(256, dtype=torch.int32)
    index[fields] = torch.arange(u, dtype=torch.int32)
    rows, cols = [], torch.zeros(n * u, dtype=torch.int64)
    for block in _blocks(anchor):
        place = index[_fields(block)]
        by_row = place + torch.arange(len(block), dtype=torch.int32)[:, None] * u
        rows.append(by_row.flatten().bincount(minlength=len(block) * u))
        by_col = place + torch.arange(n, dtype=torch.int32) * u
        cols += by_col.flatten().bincount(minlength=n * u)
    units = spacing(torch.exp2(fields.double() - 127))
    return _Binades(units, torch.cat(rows).view(m, u).double() / n, cols.view(n, u).double() / m)


def _blocks(anchor: Tensor) -> tuple[Tensor, ...]:
    blocks: tuple[Tensor, ...] = anchor.split(max(1, _BLOCK // anchor.shape[1]))
    return blocks


def _fields(block: Tensor) -> Tensor:
    """The exponent field of each entry."""
    return (block.view(torch.int16).int() >> 7) & 0xFF


def _true_directions(
    X: Float64[Tensor, "lines k"],
    shares: Float64[Tensor, "lines u"],
    units: Float64[Tensor, " u"],
    rms: Float64[Tensor, " lines"],
) -> Float64[Tensor, "lines k"]:
    """Undo the mean gain of every line, for the update's size there."""
    gain = (shares * signal_gain(rms, units)).sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    true = X / gain[:, None]
    directions: Tensor = true / true.norm(dim=0)
    return directions


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


def mean_rounded(
    signal: Float64[Tensor, " v"], unit: Float64[Tensor, " v"], sd: float
) -> Float64[Tensor, " v"]:
    r"""Return $E[\text{round}(x+\text{sd}\,z)]$ for rounding to multiples of a unit, z normal."""
    x, ratio = signal / unit, (sd / unit).clamp(max=1.0)
    whole = x.floor()
    steps = torch.arange(-5, 6, dtype=x.dtype)[:, None]
    above = torch.special.ndtr((x - whole - steps - 0.5) / ratio)
    mean = whole + torch.where(steps >= 0, above, above - 1).sum(0)
    return torch.where(ratio < 1, mean * unit, signal)  # to 1e-8 once the deviation is a unit
