"""What rows and columns of their own make of a comparison inside binades.

Updates and weights have rows and columns of unlike size. Where those of the two agree by chance, a
mask's entries change more often than others of their binade though no entry knows of the mask.
"""

from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from offaxis.linalg.elementwise import Kernel, load
from offaxis.linalg.rounding import is_unchanged, narrowed

_BLOCK = 1 << 18
_EQUALITY = 2.0**-9  # below it `is_unchanged` is equality of bf16 values


class Chance(NamedTuple):
    """The part of a Mantel-Haenszel comparison that rows and columns explain.

    Attributes:
        difference: Of the sums of hits and misses over the binades.
        explained: Share of the mask's variance inside binades, in [0, 1).
    """

    difference: float
    explained: float


def chance_of_lines(
    anchor: Float[Tensor, "m n"],
    current: Float[Tensor, "m n"],
    codes: UInt8[Tensor, "m n"],
    table: Int64[Tensor, "256 16 2"],
    weights: Float64[Tensor, "16"],
    *,
    eta: float,
    kernel: Kernel = "compiled",
) -> Chance:
    r"""Return what rows and columns explain of the comparison of a mask with others.

    With $y-\bar y_e$ the changes of an entry beyond those of its binade, $g-\bar g_e$ its weight in
    the mask beyond theirs and $d_e=\bar y_e(1-\bar y_e)$, the comparison is
    $\sum(g-\bar g_e)(y-\bar y_e)$. A row i that changes more often than others does so by
    $\alpha_i=\sum_i(y-\bar y_e)/\sum_id_e$, in units of $d_e$, and contributes
    $\alpha_i\sum_id_e(g-\bar g_e)$; likewise a column.

    Args:
        anchor: Finite values of any floating-point format.
        current: Likewise.
        codes: Mask codes below 16.
        table: Their counts by the exponent of the anchor, code and change.
        weights: The weight of an entry of each code in the mask.
        eta: The relative tolerance of what counts as unchanged.
        kernel: `compiled` runs numba where it is installed, `plain` never.

    Source:
        The projection of Frisch and Waugh 1933, doi:10.2307/1907330, on lines.
    """
    h = table.sum((1, 2)).double().clamp(min=1)
    change = table[..., 1].sum(1) / h
    inside = table.sum(2).double() @ weights / h
    d = change * (1 - change)
    beyond = (weights - inside[:, None])[:, :, None].expand(256, 16, 2)
    scores = torch.stack(
        torch.broadcast_tensors(
            torch.arange(2) - change[:, None, None], d[:, None, None], d[:, None, None] * beyond
        ),
        dim=-1,
    )
    difference = explained = 0.0
    quick = kernel == "compiled" and anchor.device.type == "cpu" and eta < _EQUALITY
    loops = load("scoring") if quick else None
    for sums in _by_line((anchor, current), codes, scores, eta, loops):
        Y, D, G = sums.unbind(1)
        D = D.clamp(min=torch.finfo(torch.float64).tiny)
        difference += float((G * Y / D).sum())
        explained += float((G.square() / D).sum())
    total = float((table.sum(2) * d[:, None] * beyond[..., 0].square()).sum())
    return Chance(difference, min(explained / total, 0.99) if total > 0 else 0.0)


def _by_line(
    pair: tuple[Tensor, Tensor],
    codes: Tensor,
    scores: Tensor,
    eta: float,
    loops: ModuleType | None,
) -> tuple[Float64[Tensor, "m 3"], Float64[Tensor, "n 3"]]:
    """The sums of the scores of every row and of every column."""
    m, n = codes.shape
    rows, cols = (torch.zeros(d, 3, dtype=torch.float64) for d in (m, n))
    flat = scores.reshape(-1, 3)
    padded = torch.nn.functional.pad(flat.float(), (0, 1)).numpy()
    height = max(1, _BLOCK // n)
    for first in range(0, m, height):
        part = slice(first, first + height)
        a, b = (narrowed(W[part]) for W in pair)
        if loops is not None:
            bits = (x.contiguous().view(torch.int16).numpy().view(np.uint16) for x in (a, b))
            held = codes[part].numpy()
            loops.add_scores(*bits, held, padded, rows[part].numpy(), cols.numpy())
            continue
        changed = ~is_unchanged(a.double(), b.double(), eta)
        cell = ((a.view(torch.int16).long() >> 7 & 0xFF) * 16 + codes[part]) * 2 + changed
        found = flat[cell.cpu()]
        rows[part] = found.sum(1)
        cols += found.sum(0)
    return rows, cols
