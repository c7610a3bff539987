"""How far the singular values moved, from the update in the anchor's basis."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.linalg.coarse import COARSE
from offaxis.linalg.projection import Projection

VALID = 0.05
"""Largest median of the update's coupling of neighbours, in gaps, at which the shift is trusted."""


_CONVERGES = 0.5  # the second order, in units of the first


class Shift(NamedTuple):
    r"""The relative shift, with what it can be trusted for.

    Attributes:
        value: $\lVert\sigma_t-\sigma_0\rVert/\lVert\sigma_0\rVert$.
        bound: Absolute error of it; infinite where it is not valid.
        validity: Median over i of $|E_{i,i+1}|/(\sigma_i^2-\sigma_{i+1}^2)$.
        worst: The largest of these.
    """

    value: float
    bound: float
    validity: float
    worst: float


def spectral_shift(projection: Projection) -> Shift:
    r"""Return the shift of the spectrum by second-order perturbation theory, without a floor.

    $\Delta\sigma_i = P_{ii} + \sum_{j\ne i}\left[\frac{(P_{ij}+P_{ji})^2}{4(\sigma_i-\sigma_j)}
    + \frac{(P_{ij}-P_{ji})^2}{4(\sigma_i+\sigma_j)}\right] + \frac{r_i^2}{2\sigma_i}$, r the part
    outside the anchor's row space; the second order is summed over a sample of the directions
    beyond the leading block. What it changes, twice, bounds what the third order would, and what
    bringing the moved values into order changes counts as much. Valid where
    the coupling of neighbours, $E_{i,i+1}=P_{i,i+1}\sigma_{i+1}+\sigma_iP_{i+1,i}$, is in the
    median at most 0.05 of their gap and the second order at most half the first.

    Returns:
        The shift; exactly 0 with bound 0 for a zero update. A zero anchor has value and bound inf.

    Source:
        Stewart & Sun 1990, "Matrix Perturbation Theory", chapter V.
    """
    s = projection.s
    if projection.is_zero:
        return Shift(0.0, 0.0, 0.0, 0.0)
    scale = float(s.norm())
    if scale == 0:
        return Shift(math.inf, math.inf, math.inf, math.inf)
    validity, worst = _coupling(projection)
    first = (s + projection.diagonal).abs() - s
    leading = torch.arange(projection.t, device=s.device)
    parts = [(leading, projection.P_top, projection.P_left, 1.0)]
    if projection.sample.numel():
        share = (s.numel() - projection.t) / projection.sample.numel()
        parts.append((projection.sample, projection.sample_rows, projection.sample_columns, share))
    change = square = 0.0
    for index, rows, columns, share in parts:
        moved = projection.diagonal[index] + _second_order(projection, index, rows, columns)
        second = (s[index] + moved).abs() - s[index] - first[index]
        change += share * float(((2 * first[index] + second) * second).sum())
        square += share * float(second.square().sum())
    unsorted = float(first.norm())
    plain = float((s + first).sort(descending=True).values.sub_(s).norm())
    value = math.sqrt(max(plain**2 + change, 0.0))
    spread = 2 * math.sqrt(square) * (validity + 1 / math.sqrt(s.numel()))
    bound = 2 * abs(value - plain) + (unsorted - plain) + spread + _rounding(projection, value)
    is_valid = validity <= VALID and square <= _CONVERGES**2 * unsorted**2
    return Shift(value / scale, bound / scale if is_valid else math.inf, validity, worst)


def _coupling(projection: Projection) -> tuple[float, float]:
    """Median and maximum of the neighbours' coupling over their gap."""
    s = projection.s
    if s.numel() == 1:
        return 0.0, 0.0
    E = (projection.above * s[1:] + s[:-1] * projection.below).abs()
    ratio = torch.where(E == 0, 0.0, E / (s[:-1].square() - s[1:].square()))
    return float(ratio.quantile(0.5)), float(ratio.max())


def _rounding(projection: Projection, value: float) -> float:
    """What coarse products leave: spread over all entries, and from one large entry to its row.

    Spread, it adds to the square of the norm; across it, by four standard deviations.
    """
    size = float(torch.linalg.vector_norm(projection.D))
    p, q = projection.D.shape
    leak = COARSE * size / math.sqrt(p)
    spread = (COARSE * size) ** 2 / (2 * q * max(value, leak))
    return 4 * COARSE * size / math.sqrt(p * q) + spread + leak * min(1.0, leak / max(value, leak))


def _second_order(
    projection: Projection, index: Tensor, rows: Tensor, columns: Tensor
) -> Float64[Tensor, " j"]:
    """The second-order shift of some values, each pair as its own 2 x 2 problem.

    Solving the pair keeps near ties finite: what two values repel each other is then at most their
    coupling.
    """
    s = projection.s.float()
    mine = s[index][:, None]
    other = columns.T
    even, odd = (rows + other) / 2, (rows - other) / 2
    even[torch.arange(index.numel(), device=s.device), index] = 0
    gap, sum_ = (mine - s) / 2, (mine + s) / 2
    repelled = even.square() / (gap.abs() + torch.hypot(gap, even)) * gap.sign()
    lifted = odd.square() / (sum_ + torch.hypot(sum_, odd))
    pairs = (repelled.nan_to_num() + lifted.nan_to_num()).sum(1, dtype=torch.float64)
    own, beyond = projection.s[index], projection.outside[index]
    return pairs + (beyond / (own + (own.square() + beyond).sqrt())).nan_to_num()
