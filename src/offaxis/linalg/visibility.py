"""How much of an update a bf16 file shows, and whether the precision gate alone explains where.

Weights so small that nearly every update changes them, whose gate is *open*, show the law of the
update directly. If the update does not depend on the weight, that law says how often every larger
weight changes, and how large the update is that the file hides. Both hold for an anchor on the
bf16 grid and masters of more than bf16; `gate_regime` tells when.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float64, Int64, Shaped
from torch import Tensor

from offaxis.linalg.rounding import Grid, true_rms

OPEN = 0.95
"""The gate of a binade is open where more than this share of its entries changed."""

_FEW = 100  # a binade of fewer entries says nothing about its gate
_ENOUGH = 1000  # open entries from which a law can be read
_BLOCK = 1 << 20
_HALF_ULP = 8  # exponent fields between a bf16 value and half its unit in the last place


class OpenSteps(NamedTuple):
    """The visible steps of the weights whose gate is open.

    Attributes:
        limit: The largest exponent field whose gate is open.
        counts: Steps by the exponent field of |step| in float32 and by whether more than a power
            of two: [e, 0] counts |step| = 2^(e-127), and zeros at e = 0.
        energy: Sum of the squared steps.
        fourth: Sum of their fourth powers.
    """

    limit: int
    counts: Int64[Tensor, "256 2"]
    energy: float
    fourth: float


def open_limit(table: Int64[Tensor, "256 codes 2"]) -> int | None:
    """Return the largest exponent field up to which every binade's gate is open.

    Args:
        table: Entries by the exponent field of the anchor's bf16 value, mask code, and change.

    Returns:
        The field; None where the smallest binade with enough entries is not open.
    """
    unchanged, changed = table.sum(1).unbind(1)
    entries = unchanged + changed
    enough = (entries >= _FEW).nonzero()[:, 0]
    closed = (changed <= OPEN * entries)[enough].nonzero()[:, 0]
    open_fields = enough[: int(closed[0]) if closed.numel() else None]
    return int(open_fields[-1]) if open_fields.numel() else None


def open_steps(
    anchor: BFloat16[Tensor, "m n"], current: Shaped[Tensor, "m n"], limit: int
) -> OpenSteps:
    """Collect the steps current - anchor of all entries whose gate is open.

    Args:
        anchor: The anchor, on the bf16 grid.
        current: The checkpoint as stored: bf16, or float32, which shows its steps unrounded.
        limit: The largest exponent field whose gate is open.
    """
    counts = torch.zeros(512, dtype=torch.int64)
    energy = fourth = 0.0
    a, b = anchor.flatten(), current.flatten()
    for start in range(0, a.numel(), _BLOCK):
        block = a[start : start + _BLOCK]
        small = (block.view(torch.int16) & 0x7F80 <= limit << 7).nonzero()[:, 0]
        step = b[start : start + _BLOCK][small].float() - block[small].float()
        bits = step.abs().view(torch.int32)
        counts += torch.bincount((bits >> 23) * 2 + (bits & 0x7FFFFF).ne(0), minlength=512)
        square = step.double().square()
        energy += float(square.sum())
        fourth += float(square.square().sum())
    return OpenSteps(limit, counts.view(256, 2), energy, fourth)


class Consistency(NamedTuple):
    """Changes seen over changes predicted, and the standard error of the ratio's logarithm."""

    value: float
    log_sd: float


def gate_consistency(
    table: Int64[Tensor, "256 codes 2"],
    magnitudes: Int64[Tensor, "32768 codes"],
    steps: OpenSteps,
) -> Consistency | None:
    r"""Return how many larger weights changed over how many the open-gate weights predict.

    1 where the update does not depend on the weight's size, whatever its law; above 1 where it
    grows with the weight, below 1 where it prefers small weights. An entry changes where
    $|\Delta|$ exceeds half a unit in the last place, a quarter on the inner side of a power of
    two. Visible steps are rounded: one that equals the threshold lay above it in half the cases.
    What is left of rounding is below 1 %. The standard error takes entries as independent;
    profiles of rows and columns that agree by chance add to it.

    Args:
        table: Entries by the exponent field of the anchor's bf16 value, mask code, and change.
        magnitudes: Entries by the anchor's bf16 magnitude bits and mask code.
        steps: Those of the weights whose gate is open.

    Returns:
        None where fewer than 1000 entries are open, or no change of a larger one is predicted.
    """
    total = int(steps.counts.sum())
    if total < _ENOUGH:
        return None
    powers = magnitudes[::128].sum(1).double()
    predicted = _exceedances(table.sum((1, 2)).double(), powers, steps.limit)
    steps_by_cell = steps.counts.double()
    closed = table[max(steps.limit, _HALF_ULP + 1) + 1 :]
    h, c = closed.sum((1, 2)).double(), closed[..., 1].sum(1).double()
    seen, expected = float(c.sum()), float((steps_by_cell * predicted).sum()) / total
    if seen == 0 or expected == 0:
        return None
    spread = float((steps_by_cell * predicted.square()).sum()) / total - expected**2
    observed_variance = float((c * (1 - c / h.clamp(min=1))).sum()) / seen**2
    return Consistency(seen / expected, math.sqrt(observed_variance + spread / total / expected**2))


def _exceedances(
    entries: Float64[Tensor, "256"], powers: Float64[Tensor, "256"], limit: int
) -> Float64[Tensor, "256 2"]:
    """How many closed entries a step in each cell of `OpenSteps.counts` would change, on average.

    The step is in either direction with even odds, and the spacing below a power of two is half of
    that above.

    Args:
        entries: Entries by the exponent field of the anchor's bf16 value.
        powers: Those among them that are powers of two.
        limit: The largest exponent field whose gate is open.
    """
    first = max(limit, _HALF_ULP + 1) + 1
    thresholds = torch.zeros(256, dtype=torch.float64)
    thresholds[first - _HALF_ULP : 256 - _HALF_ULP] += (entries - powers / 2)[first:]
    thresholds[first - _HALF_ULP - 1 : 255 - _HALF_ULP] += powers[first:] / 2
    beyond = thresholds.cumsum(0)
    return torch.stack([beyond - thresholds / 2, beyond], dim=1)


class VisibleFraction(NamedTuple):
    """Visible over true norm of an update, its standard error, and how the true one was told."""

    value: float
    sd: float
    method: str


def visible_fraction(
    grid: Grid, visible_rms: float, error: float, steps: OpenSteps | None
) -> VisibleFraction | None:
    """Estimate the share of an update's norm that a bf16 file of an anchor on the grid shows.

    The true size is the rms of the open-gate weights' steps where there are 1000 of them: right
    for every law that does not depend on the weight. Elsewhere it is that of the Gaussian update
    that would have shown what was seen. Of a file in float32 the visible fraction needs no
    estimate: it is the norm of cast(W1) - cast(W0) over that of W1 - W0, which exceeds 1 where the
    cast adds more rounding than it hides, as it does to a small update of an anchor off the grid.

    Args:
        grid: The anchor on the bf16 grid.
        visible_rms: Root mean square of current - anchor, >= 0.
        error: Relative standard error of its square.
        steps: Those of the weights whose gate is open, if any.

    Returns:
        A fraction in [0, 1]; None where nothing is visible.
    """
    if visible_rms == 0:
        return None
    if steps is not None and int(steps.counts.sum()) >= _ENOUGH and steps.energy > 0:
        total = int(steps.counts.sum())
        true = math.sqrt(steps.energy / total)
        spread = max(steps.fourth / steps.energy**2 - 1 / total, 0.0)
        value, method = min(visible_rms / true, 1.0), "rms of the weights with an open gate"
        return VisibleFraction(value, value * math.sqrt(spread + error**2) / 2, method)
    low, value, high = (
        min(seen / true_rms(grid, seen), 1.0)
        for seen in (visible_rms * math.exp(shift * error / 2) for shift in (-1, 0, 1))
    )
    method = "Gaussian update that shows the visible norm"
    return VisibleFraction(value, abs(high - low) / 2, method)


def gate_regime(master: torch.dtype | None, *, stochastic_rounding: bool = False) -> str:
    """Return where the precision gate acted, hence which null is right.

    Args:
        master: The format that held the weights during training; None where the metadata is mute.
        stochastic_rounding: Whether the optimizer rounded at random.

    Returns:
        `final_cast`: the cast to the stored file is the only gate, and the closed forms hold;
        `per_step`: every step was rounded, and only a simulation gives the null; `unknown`.
    """
    if stochastic_rounding:
        return "per_step"
    if master is None:
        return "unknown"
    return "final_cast" if master in (torch.float32, torch.float64) else "per_step"
