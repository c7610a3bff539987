"""The spikes of an update without what the cast to bf16 hid of them."""

import math
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float64
from torch import Generator, Tensor

from offaxis.linalg import passage
from offaxis.linalg.debias import Corrected, Profile, summarise
from offaxis.linalg.rounding import spacing

_GROUP = 32  # columns of a tile of entries that are followed through the cast
_TILED = 1 << 16  # entries followed
_LINES = 512  # of which the binades are counted for the lines across them
_ROUNDS = 30
_SETTLED = 3e-4
_SIZINGS = 5
_LEAST = 0.01  # of an energy, what is left of it at least


class Entries(NamedTuple):
    """What is told of the true update's entries: their root mean square and their kurtosis."""

    rms: float
    kurtosis: float = 3.0


def restore_spikes(
    corrected: Corrected,
    U: Float64[Tensor, "m k"],
    V: Float64[Tensor, "n k"],
    anchor: BFloat16[Tensor, "m n"],
    *,
    behind: Entries,
    visible: Profile,
    generator: Generator,
) -> Corrected:
    r"""Return the spikes of the update behind a bf16 file, from those that the file shows.

    For an anchor on the bf16 grid. A signal L inside an update whose rest is noise of variance
    $r_ic_j$ shows as $M(L)=E[\text{round}(L+\sqrt{r_ic_j}\,z)]$, entry by entry; rows and columns
    of heavier weights, and of smaller noise, pass less. The variances are those that would show
    the energies that rows and columns show; z has the kurtosis that the weights with an open gate
    tell, as a Gaussian of varying size. The true directions are taken as the visible ones over the
    mean gain of their rows and columns; the strengths are those for which $u_k^TM(L)v_k$ is what
    was seen, by fixed point on tiles of entries that cover all rows and columns.

    Args:
        corrected: The visible spikes without their noise.
        U: Their left singular vectors, in the same order.
        V: Their right singular vectors.
        anchor: The anchor.
        behind: The true update's entries.
        visible: Sums of squares of the rows and columns of the visible update.
        generator: Draws the tiles.

    Returns:
        Strengths and shares of the true update's energy, rms^2 mn.
    """
    m, n = anchor.shape
    energy, values = behind.rms**2 * m * n, corrected.values
    if corrected.stable_rank is None:
        return summarise(values, energy)
    rows, cols = _sides(anchor, visible, behind, generator)
    U_behind, V_behind = _true_directions(U, rows), _true_directions(V, cols)
    tiles = _tiles(anchor, (U, V), (U_behind, V_behind), (rows, cols), generator)
    seen = values / ((U * U_behind).sum(0) * (V * V_behind).sum(0)).clamp(min=_LEAST)
    law, x = passage.law_of(3.0), values
    for _ in range(2):
        x = _strengths(seen, x, tiles, law)
        law = passage.law_of(_kurtosis(x, tiles, behind))
        if len(law.shares) == 1:
            break
    return summarise(x, energy)


class _Side(NamedTuple):
    """Of every row or column: the variance of the true update's entries, the gain of a signal."""

    variance: Float64[Tensor, " lines"]
    gain: Float64[Tensor, " lines"]


def _sides(
    anchor: BFloat16[Tensor, "m n"], visible: Profile, behind: Entries, generator: Generator
) -> tuple[_Side, _Side]:
    m, n = anchor.shape
    some_rows, some_cols = (torch.randperm(d, generator=generator)[:_LINES] for d in (m, n))
    across = anchor[:, some_cols], anchor[some_rows].T
    energies = visible.rows / n, visible.cols / m
    rows, cols = (_side(a, e, behind.rms) for a, e in zip(across, energies, strict=True))
    return rows, cols


def _side(across: BFloat16[Tensor, "lines w"], energy: Tensor, rms: float) -> _Side:
    """Size every line's update so that it would show the line's energy, were it Gaussian."""
    shares, units = _binades(across)
    table, variance = passage.passage_of(passage.law_of(3.0)), energy
    for _ in range(_SIZINGS):
        ratio = variance.sqrt()[:, None] / units
        seen = (shares * passage.at(table.energy, ratio)).sum(1).clamp(min=_LEAST)
        variance = (variance * energy / seen).sqrt()
    gain = (shares * passage.at(table.gain, variance.sqrt()[:, None] / units)).sum(1)
    mean = float(variance.mean())
    return _Side(variance * (rms**2 / mean if mean else 0.0), gain.clamp(min=_LEAST))


def _binades(
    across: BFloat16[Tensor, "lines w"],
) -> tuple[Float64[Tensor, "lines u"], Float64[Tensor, " u"]]:
    """The binades' shares of every line, and their units in the last place."""
    fields = (across.contiguous().view(torch.int16).int() >> 7) & 0xFF
    first, last = (int(x) for x in fields.aminmax())
    u = last - first + 1
    lines = torch.arange(len(fields), dtype=torch.int32)[:, None] * u
    counts = (fields - first + lines).flatten().bincount(minlength=len(fields) * u)
    units = spacing(torch.exp2(torch.arange(first, last + 1, dtype=torch.float64) - 127))
    return counts.view(-1, u).double() / fields.shape[1], units


def _true_directions(X: Float64[Tensor, "lines k"], side: _Side) -> Float64[Tensor, "lines k"]:
    """Undo the mean gain of every line."""
    true = X / side.gain[:, None]
    directions: Tensor = true / true.norm(dim=0)
    return directions


class _Tiles(NamedTuple):
    """Entries in g tiles of a rows and b columns: what is seen there, and what is behind.

    Attributes:
        shape: Of the matrix.
        unit: In the last place, of the anchor.
        U: What is seen of left directions, at the tiles' rows.
        V: Of right ones, at their columns.
        U_behind: What is behind them.
        V_behind: Likewise.
        rows: The variance of the update in each row.
        cols: In each column.
    """

    shape: tuple[int, int]
    unit: Float64[Tensor, "g a b"]
    U: Float64[Tensor, "g a k"]
    V: Float64[Tensor, "g b k"]
    U_behind: Float64[Tensor, "g a k"]
    V_behind: Float64[Tensor, "g b k"]
    rows: Float64[Tensor, "g a"]
    cols: Float64[Tensor, "g b"]

    def signal(self, x: Float64[Tensor, " k"]) -> Float64[Tensor, "g a b"]:
        """The entries of spikes of the given strengths."""
        return torch.bmm(self.U_behind * x, self.V_behind.mT)

    def noise(self, x: Float64[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        """The variance of what is not of the spikes, in each row and in each column."""
        (m, n), squares = self.shape, x.square()
        rows = self.rows - self.U_behind.square() @ squares / n
        cols = self.cols - self.V_behind.square() @ squares / m
        return rows.maximum(_LEAST * self.rows), cols.maximum(_LEAST * self.cols)

    def shown(self, M: Float64[Tensor, "g a b"]) -> Float64[Tensor, " k"]:
        """How much of a matrix the seen directions see."""
        seen: Tensor = (torch.bmm(self.U.mT, M) * self.V.mT).sum((0, 2))
        return seen


def _tiles(
    anchor: BFloat16[Tensor, "m n"],
    seen: tuple[Tensor, Tensor],
    true: tuple[Tensor, Tensor],
    sides: tuple[_Side, _Side],
    generator: Generator,
) -> _Tiles:
    """Tiles that cover all rows and columns alike, as often as their number allows."""
    m, n = anchor.shape
    if m * n <= _TILED:
        i, j = torch.arange(m)[None], torch.arange(n)[None]
    else:
        groups = max(1, max(m, n) // _GROUP)
        groups = min(groups, m, n)
        covers = max(1, _TILED * groups // (m * n))
        i, j = (torch.cat([_dealt(d, groups, generator) for _ in range(covers)]) for d in (m, n))
    held = anchor[i[:, :, None], j[:, None, :]].double().abs()
    unit = spacing(held.flatten()).view_as(held)
    (U, V), (U_behind, V_behind), (rows, cols) = seen, true, (side.variance for side in sides)
    return _Tiles((m, n), unit, U[i], V[j], U_behind[i], V_behind[j], rows[i], cols[j])


def _dealt(count: int, groups: int, generator: Generator) -> Tensor:
    each = count // groups
    return torch.randperm(count, generator=generator)[: groups * each].view(groups, each)


def _strengths(
    seen: Float64[Tensor, " k"],
    x: Float64[Tensor, " k"],
    tiles: _Tiles,
    law: passage.Law,
) -> Float64[Tensor, " k"]:
    """The strengths whose passage through the cast is what was seen."""
    table, tiny = passage.rounded_means(law), torch.finfo(torch.float64).tiny
    for _ in range(_ROUNDS):
        signal, (rows, cols) = tiles.signal(x), tiles.noise(x)
        mean = float(rows.mean() + cols.mean()) / 2 + tiny
        deviation = torch.einsum("ga,gb->gab", rows, cols).div(mean).sqrt()
        means = passage.rounded_mean(table, signal / tiles.unit, deviation / tiles.unit)
        gain = tiles.shown(means * tiles.unit) / tiles.shown(signal)
        x, last = seen / gain.clamp(min=0.02), x
        if float((x / last - 1).abs().max()) < _SETTLED:
            break
    return x


def _kurtosis(x: Float64[Tensor, " k"], tiles: _Tiles, behind: Entries) -> float:
    """That of the noise in an entry, from that of the update over all entries."""
    square, (rows, cols) = tiles.signal(x).square(), tiles.noise(x)
    uneven = math.prod(float(v.square().mean() / v.mean().square()) for v in (rows, cols))
    noise = float(rows.mean() + cols.mean()) / 2
    mixed = float((rows[:, :, None] * square).mean() + (square * cols[:, None]).mean()) / 2
    total = behind.kurtosis * behind.rms**4 - float(square.square().mean()) - 6 * mixed
    return total / (uneven * noise**2)
