"""How much of an update's energy sits in its few largest coordinates."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from offaxis.linalg.products import largest

_PASS = 1 << 18  # entries squared at a time


class Share(NamedTuple):
    """Mean and standard deviation of a share under a null."""

    mean: float
    sd: float


def energy_of_largest(D: Float[Tensor, "m n"], fraction: float) -> float:
    r"""Return the share of $\lVert D\rVert_F^2$ in the `fraction` of entries of largest magnitude.

    A fraction of an entry counts as that part of its square, so that the share is continuous in the
    fraction. The fraction itself where all magnitudes are equal, 1 for one that holds all energy.

    Args:
        D: Any floating format, not all zero.
        fraction: In (0, 1].

    Example:
        >>> energy_of_largest(torch.tensor([[2.0, 1.0], [1.0, 0.0]]), 0.5)
        0.8333333333333334
    """
    unit, flat = largest(D.abs()), D.reshape(-1)
    wanted = fraction * flat.numel()
    rank = min(max(math.ceil(wanted), 1), flat.numel())
    threshold = float(flat.abs().kthvalue(flat.numel() - rank + 1).values)
    total = above = 0.0
    count = 0
    for part in flat.split(_PASS):
        magnitude = part.abs()
        squares, inside = (magnitude.double() / unit).square(), magnitude > threshold
        total += float(squares.sum())
        above += float(squares[inside].sum())
        count += int(inside.sum())
    return min((above + (wanted - count) * (threshold / unit) ** 2) / total, 1.0)


def gaussian_energy_of_largest(fraction: float, entries: int) -> Share:
    r"""Return the same share for independent Gaussian entries of one size.

    With $t$ the magnitude that a normal number passes with probability q, the share is
    $q+2t\varphi(t)$; its spread over matrices is that of the trimmed sum's influence function.

    Args:
        fraction: q, in (0, 1).
        entries: How many there are.

    Source:
        Shorack & Wellner 1986, doi:10.1137/1.9780898719017, on linear functions of order
        statistics; the moments of a truncated normal are elementary.
    """
    q = torch.tensor(fraction, dtype=torch.float64)
    t = -float(torch.special.ndtri(q / 2))
    density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    second = fraction + 2 * t * density
    fourth = 2 * (t**3 + 3 * t) * density + 3 * fraction
    over = second - t * t * fraction  # of the squares, beyond the threshold
    over_squared = fourth - 2 * t * t * second + t**4 * fraction
    with_square = fourth - t * t * second
    variance = over_squared - over**2 + 2 * second**2 - 2 * second * (with_square - over)
    return Share(second, math.sqrt(max(variance, 0.0) / entries))
