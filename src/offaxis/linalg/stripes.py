"""Whether changes gather in rows and columns: how unevenly lines are hit, beside chance."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from offaxis.linalg.rounding import is_unchanged, narrowed

_BLOCK = 1 << 18  # entries compared at a time
_EXPONENTS = 256


class Lines(NamedTuple):
    """The changes of every row, or of every column.

    Attributes:
        changed: How many entries of each line changed.
        binades: How many entries of each line lie in each binade of the anchor.
        length: How many entries a line has.
    """

    changed: Float64[Tensor, " l"]
    binades: Int64[Tensor, "l 256"]
    length: int

    @property
    def ratios(self) -> Float64[Tensor, " l"]:
        """The share of each line that changed, in [0, 1]."""
        return self.changed / self.length


class Dispersion(NamedTuple):
    """Mean and standard deviation of a dispersion under a null."""

    mean: float
    sd: float


def lines_of(
    anchor: Float[Tensor, "m n"], current: Float[Tensor, "m n"], eta: float
) -> tuple[Lines, Lines]:
    """Count the changes of rows and of columns, as bf16 shows them.

    Args:
        anchor: Finite values of any floating-point format.
        current: Likewise.
        eta: The relative tolerance of what counts as unchanged.

    Source:
        arXiv:2511.08567, section 2.2: the row-wise and column-wise update ratios.
    """
    m, n = anchor.shape
    hit_m, hit_n = (torch.zeros(d, dtype=torch.float64) for d in (m, n))
    in_m, in_n = (torch.zeros(d, _EXPONENTS, dtype=torch.int64) for d in (m, n))
    height = max(1, _BLOCK // n)
    for first in range(0, m, height):
        part = slice(first, min(first + height, m))
        a, b = (narrowed(W[part]).cpu() for W in (anchor, current))
        hit = ~is_unchanged(a.double(), b.double(), eta)
        exponent = a.view(torch.int16).long() >> 7 & 0xFF
        hit_m[part] = hit.sum(1).double()
        hit_n += hit.sum(0).double()
        in_m[part] = _histogram(exponent)
        in_n += _histogram(exponent.T)
    return Lines(hit_m, in_m, n), Lines(hit_n, in_n, m)


def dispersion(lines: Lines) -> float | None:
    r"""Return the variance of the lines' counts over what random placement gives, >= 0.

    $\frac1{l-1}\sum_i(c_i-\bar c)^2$ over its mean when the same number of changes is placed at
    random among all entries (hypergeometric), which is 1; lines hit alike give less, stripes more.
    None with a single line, or where nothing or everything changed.
    """
    scale = _scale(lines)
    return float(lines.changed.var()) / scale if scale else None


def placed_at_random(lines: Lines) -> Dispersion | None:
    """Return the law of `dispersion` where every entry is as likely to change.

    The spread is that of a chi-square law with one degree of freedom less than there are lines.
    """
    if not _scale(lines):
        return None
    return Dispersion(1.0, (2 / (len(lines.changed) - 1)) ** 0.5)


def placed_in_binades(lines: Lines, changed: Float64[Tensor, "256"]) -> Dispersion | None:
    r"""Return the law of `dispersion` where only the binade of a weight matters.

    Line i, with $h_{ie}$ of the $h_e$ entries of binade e, of which $c_e$ change, is hit
    $\mu_i=\sum_eh_{ie}c_e/h_e$ times, with the variance $V_i$ of sampling without replacement:
    lines of small weights are hit more often though no line is preferred. The mean is exact; the
    spread takes the counts as normal and independent.

    Args:
        lines: The rows or the columns.
        changed: How many entries of each binade changed.
    """
    scale = _scale(lines)
    if not scale:
        return None
    h = lines.binades.double()
    total = h.sum(0)
    c = changed / total.clamp(min=1)
    mean = h @ c
    variance = (h * (total - h) / (total - 1).clamp(min=1)) @ (c * (1 - c))
    away = mean - mean.mean()
    over = (len(mean) - 1) * scale
    spread = 2 * variance.square() + 4 * variance * away.square()
    return Dispersion(
        float((variance + away.square()).sum()) / over, float(spread.sum()) ** 0.5 / over
    )


def _scale(lines: Lines) -> float:
    """The mean of the counts' variance under random placement."""
    count, length = len(lines.changed), lines.length
    entries = count * length
    share = float(lines.changed.sum()) / entries
    if count < 2:
        return 0.0
    return length * share * (1 - share) * entries / (entries - 1)


def _histogram(exponent: Int64[Tensor, "l n"]) -> Int64[Tensor, "l 256"]:
    """How often each exponent stands in each line."""
    offsets = torch.arange(len(exponent))[:, None] * _EXPONENTS
    found = torch.bincount((exponent + offsets).reshape(-1), minlength=len(exponent) * _EXPONENTS)
    return found.view(len(exponent), _EXPONENTS)
