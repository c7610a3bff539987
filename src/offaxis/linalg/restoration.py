"""The spikes of an update without what the cast to bf16 hid of them."""

from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float32, Float64, Int16, Int64
from torch import Generator, Tensor

from offaxis.linalg import passage
from offaxis.linalg.debias import Corrected, Profile, summarise
from offaxis.linalg.rounding import spacing

_GROUP = 32  # columns of a tile of entries that are followed through the cast
_TILED = 1 << 18  # entries followed
_LINES = 512  # of which the binades are counted for the lines across them
_COUNTED = 256  # lines at a time
_ROUNDS = 30
_SETTLED = 3e-4
_FALLS = 0.9  # most that a step may be of the one before it
_SIZINGS = 5
_FINE = 2.0  # units in the last place that the noise measures where rounding does not matter
_ENOUGH = 1000
_LEAST = 0.01  # of an energy, what is left of it at least


def restore_spikes(
    corrected: Corrected,
    U: Float64[Tensor, "m k"],
    V: Float64[Tensor, "n k"],
    anchor: BFloat16[Tensor, "m n"],
    current: BFloat16[Tensor, "m n"],
    *,
    rms: float,
    visible: Profile,
    generator: Generator,
) -> Corrected:
    r"""Return the spikes of the update behind a bf16 file, from those that the file shows.

    For an anchor on the bf16 grid. A signal L inside an update whose rest is noise of variance
    $r_ic_j$ shows as $M(L)=E[\text{round}(L+\sqrt{r_ic_j}\,z)]$, entry by entry; rows and columns
    of heavier weights, and of smaller noise, pass less. The variances are those that would show
    the energies that rows and columns show; z is a Gaussian of varying size, with the kurtosis that
    the weights tell whose spacing is far below the update. The true directions are taken as the
    visible ones over the mean gain of their rows and columns; the strengths are those for which
    $u_k^TM(L)v_k$ is what was seen, by fixed point on tiles of entries that cover all rows and
    columns.

    Args:
        corrected: The visible spikes without their noise.
        U: Their left singular vectors, in the same order.
        V: Their right singular vectors.
        anchor: The anchor.
        current: The checkpoint.
        rms: Root mean square of the true update's entries.
        visible: Sums of squares of the rows and columns of the visible update.
        generator: Draws the tiles.

    Returns:
        Strengths and shares of the true update's energy, rms^2 mn.
    """
    m, n = anchor.shape
    energy, values = rms**2 * m * n, corrected.values
    if corrected.stable_rank is None:
        return summarise(values, energy)
    rows, cols = _sides(anchor, visible, rms, generator)
    places = _places(m, n, generator)
    behind = _true_directions(U, rows), _true_directions(V, cols)
    tiles = _tiles((anchor, current), (U, V), behind, (rows, cols), places, rms)
    aligned = (U * behind[0]).sum(0) * (V * behind[1]).sum(0)
    x = (values / rms).clamp(min=_LEAST * float(values.max()) / rms)
    law, seen = passage.law_of(3.0), x / aligned.clamp(min=_LEAST)
    for _ in range(2):
        x = _strengths(seen, x, tiles, law)
        law = passage.law_of(_kurtosis(x, tiles))
        if len(law.shares) == 1:
            break
    return summarise(torch.where(values > 0, x * rms, 0.0), energy)


class _Side(NamedTuple):
    """Of every row or column: the variance of the true update's entries, the gain of a signal."""

    variance: Float64[Tensor, " lines"]
    gain: Float64[Tensor, " lines"]


def _sides(
    anchor: BFloat16[Tensor, "m n"], visible: Profile, rms: float, generator: Generator
) -> tuple[_Side, _Side]:
    m, n = anchor.shape
    some_rows, some_cols = (torch.randperm(d, generator=generator)[:_LINES] for d in (m, n))
    across = anchor[:, some_cols], anchor[some_rows].T
    energies = visible.rows / n, visible.cols / m
    rows, cols = (_side(a, e, rms) for a, e in zip(across, energies, strict=True))
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
    fields = (across.contiguous().view(torch.int16) >> 7) & 0xFF
    first, last = (int(x) for x in fields.aminmax())
    u = last - first + 1
    counts = torch.cat([_histogram(part - first, u) for part in fields.split(_COUNTED)])
    units = spacing(torch.exp2(torch.arange(first, last + 1, dtype=torch.float64) - 127))
    return counts.double() / fields.shape[1], units


def _histogram(places: Int16[Tensor, "lines w"], u: int) -> Int64[Tensor, "lines u"]:
    lines = torch.arange(len(places), dtype=torch.int32)[:, None] * u
    return (places + lines).flatten().bincount(minlength=len(places) * u).view(-1, u)


def _true_directions(X: Float64[Tensor, "lines k"], side: _Side) -> Float64[Tensor, "lines k"]:
    """Undo the mean gain of every line."""
    true = X / side.gain[:, None]
    directions: Tensor = true / true.norm(dim=0)
    return directions


class _Tiles(NamedTuple):
    """Entries in g tiles of a rows and b columns, in units of the update's root mean square.

    In float32, which is more than their number deserves.

    Attributes:
        shape: Of the matrix.
        step: The visible update.
        unit: In the last place, of the anchor.
        U: What is seen of left directions, at the tiles' rows.
        V: Of right ones, at their columns.
        U_behind: What is behind them.
        V_behind: Likewise.
        rows: The variance of the update in each row.
        cols: In each column.
    """

    shape: tuple[int, int]
    step: Float32[Tensor, "g a b"]
    unit: Float32[Tensor, "g a b"]
    U: Float32[Tensor, "g a k"]
    V: Float32[Tensor, "g b k"]
    U_behind: Float32[Tensor, "g a k"]
    V_behind: Float32[Tensor, "g b k"]
    rows: Float32[Tensor, "g a"]
    cols: Float32[Tensor, "g b"]

    def signal(self, x: Float64[Tensor, " k"]) -> Float32[Tensor, "g a b"]:
        """The entries of spikes of the given strengths."""
        return torch.bmm(self.U_behind * x.float(), self.V_behind.mT)

    def noise(self, x: Float64[Tensor, " k"]) -> Float32[Tensor, "g a b"]:
        """The variance of what is not of the spikes."""
        (m, n), squares = self.shape, x.square().float()
        rows = self.rows - self.U_behind.square() @ squares / n
        cols = self.cols - self.V_behind.square() @ squares / m
        rows, cols = rows.maximum(_LEAST * self.rows), cols.maximum(_LEAST * self.cols)
        mean = float(rows.mean() + cols.mean()) / 2 + torch.finfo(torch.float32).tiny
        return torch.einsum("ga,gb->gab", rows, cols) / mean

    def shown(self, M: Float32[Tensor, "g a b"]) -> Float64[Tensor, " k"]:
        """How much of a matrix the seen directions see."""
        seen: Tensor = (torch.bmm(self.U.mT, M) * self.V.mT).sum((0, 2)).double()
        return seen


def _places(m: int, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rows and columns of tiles that cover all of both alike, as often as their number allows."""
    if m * n <= _TILED:
        return torch.arange(m)[None], torch.arange(n)[None]
    groups = min(max(1, max(m, n) // _GROUP), m, n)
    covers = max(1, _TILED * groups // (m * n))
    i, j = (torch.cat([_dealt(d, groups, generator) for _ in range(covers)]) for d in (m, n))
    return i, j


def _dealt(count: int, groups: int, generator: Generator) -> Tensor:
    each = count // groups
    return torch.randperm(count, generator=generator)[: groups * each].view(groups, each)


def _tiles(  # noqa: PLR0917
    pair: tuple[Tensor, Tensor],
    seen: tuple[Tensor, Tensor],
    behind: tuple[Tensor, Tensor],
    sides: tuple[_Side, _Side],
    places: tuple[Tensor, Tensor],
    rms: float,
) -> _Tiles:
    i, j = places
    before, after = (W[i[:, :, None], j[:, None, :]].double() for W in pair)
    unit = spacing(before.abs().flatten()).view_as(before)
    step, unit = ((after - before) / rms).float(), (unit / rms).float()
    (U, V), (U_behind, V_behind) = (  # narrowed before they are repeated tile by tile
        [X.float()[k] for X, k in zip(Xs, places, strict=True)] for Xs in (seen, behind)
    )
    rows, cols = (
        (side.variance / rms**2).float()[k] for side, k in zip(sides, places, strict=True)
    )
    m, n = pair[0].shape
    return _Tiles((m, n), step, unit, U, V, U_behind, V_behind, rows, cols)


def _strengths(
    seen: Float64[Tensor, " k"],
    x: Float64[Tensor, " k"],
    tiles: _Tiles,
    law: passage.Law,
) -> Float64[Tensor, " k"]:
    """The strengths whose passage through the cast is what was seen."""
    table = passage.rounded_means(law).float()
    moved = torch.zeros_like(x)
    for step in range(_ROUNDS):
        signal, deviation = tiles.signal(x), tiles.noise(x).sqrt()
        ratios = signal / tiles.unit, deviation / tiles.unit
        means = passage.rounded_mean(table, *ratios) * tiles.unit
        gain = tiles.shown(means) / tiles.shown(signal)
        before, moved = moved, (seen / gain.clamp(min=0.02) / x).log()
        if step % 3 == 2:  # Aitken: what is left of a sequence whose steps fall geometrically
            ratio = (moved / before).nan_to_num().clamp(-_FALLS, _FALLS)
            x = x * (moved / (1 - ratio)).exp()
        else:
            x = x * moved.exp()
        if float(moved.abs().max()) < _SETTLED:
            break
    return x


def _kurtosis(x: Float64[Tensor, " k"], tiles: _Tiles) -> float:
    """That of the noise in an entry, from the entries whose rounding is far below it."""
    noise = tiles.noise(x)
    wide = noise > (_FINE * tiles.unit).square()
    if int(wide.sum()) < _ENOUGH:
        return 3.0
    noise, step, signal = noise[wide], tiles.step[wide], tiles.signal(x)[wide].square()
    spacing_energy = tiles.unit[wide].square() / 12
    square = step.square()
    # neither the few entries of much noise nor the signal in those of little shall decide
    weight = 1 / (noise + noise.mean())
    second = float(weight @ (square - spacing_energy - signal)) / float(weight @ noise)
    fourth = square.square() - 6 * square * spacing_energy  # of steps, freed of uniform rounding
    rest = fourth - signal.square() - 6 * second * signal * noise
    weight = weight.square()
    return float(weight @ rest) / float(weight @ noise.square()) / second**2
