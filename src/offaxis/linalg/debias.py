"""The spikes of an update without the lift that noise gives to them."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

_STEPS = 60  # of Newton's method; at the edge itself each halves the error, above it a few do
_ROUNDING = 1e-15


class Corrected(NamedTuple):
    """The spectrum of an update above its noise.

    Attributes:
        spikes: How many singular values stand above the noise edge.
        values: Their strengths without the noise, in the order of the singular values.
        stable_rank: Sum of their squares over the largest square; None without spikes.
        energy_share: Sum of their squares over the energy of the update, in [0, 1].
        bulk_energy: What is left of the energy, >= 0.
    """

    spikes: int
    values: Float64[Tensor, " k"]
    stable_rank: float | None
    energy_share: float
    bulk_energy: float


class Profile(NamedTuple):
    """Row and column sums of squares of the noise: of the update less its spikes."""

    rows: Float64[Tensor, " m"]
    cols: Float64[Tensor, " n"]


def noise_profile(
    row_energy: Float64[Tensor, " m"],
    col_energy: Float64[Tensor, " n"],
    s: Float64[Tensor, " k"],
    U: Float64[Tensor, "m k"],
    V: Float64[Tensor, "n k"],
) -> Profile:
    """Return row and column energies of an update without its k leading triples."""
    rows = row_energy - U.square() @ s.square()
    cols = col_energy - V.square() @ s.square()
    return Profile(rows.clamp(min=0), cols.clamp(min=0))


def correct(
    s: Float64[Tensor, " top"],
    edge: float,
    m: int,
    n: int,
    *,
    energy: float,
    profile: Profile | None = None,
) -> Corrected:
    r"""Return the spikes of an m x n update with the lift by noise taken back.

    A spike x in noise shows as the $\sigma$ with $x^2\varphi_1(\sigma)\varphi_2(\sigma)=1$, where
    $\varphi$ are the normalised traces of the noise's resolvent. For iid noise with its edge at b
    this is, with $s_e=b/(\sqrt m+\sqrt n)$, $\beta=m/n\le1$ and $y=\sigma/(s_e\sqrt n)$,
    $x=s_e\sqrt n\,[\tfrac12(y^2-\beta-1+\sqrt{(y^2-\beta-1)^2-4\beta})]^{1/2}$. With a profile the
    noise has variance $r_ic_j/\sum r$ at (i, j), and the traces solve its two-scalar equation:
    nearer to the truth, since updates have rows and columns of unlike size.

    Args:
        s: The leading singular values, descending: all those above the edge at least.
        edge: The largest singular value that noise reaches.
        m: Rows.
        n: Columns.
        energy: Squared Frobenius norm of the update.
        profile: Row and column energies of the noise; iid noise with this edge where absent.

    Returns:
        Strengths with directions taken as unrelated to the profile; 0 for what the profile's noise
        alone may reach.

    Source:
        Benaych-Georges & Nadakuditi 2012, arXiv:1103.2221, theorem 2.8; the profile's equation is
        Girko's, as in Hachem, Loubaton & Najim 2007, arXiv:math/0507172.
    """
    above = s[s > edge]
    if profile is None:
        values = _iid_strength(above, edge, min(m, n), max(m, n))
    else:
        values = _profiled_strength(above, profile)
    return summarise(values, energy)


def summarise(values: Float64[Tensor, " k"], energy: float) -> Corrected:
    """Return the readings of spikes of the given strengths in an update of the given energy."""
    if values.numel() == 0 or float(values.max()) == 0:
        return Corrected(values.numel(), values, None, 0.0, energy)
    spiked = float(values.square().sum())
    return Corrected(
        values.numel(),
        values,
        float((values / values.max()).square().sum()),
        min(spiked / energy, 1.0),
        max(energy - spiked, 0.0),
    )


def _iid_strength(s: Tensor, edge: float, p: int, q: int) -> Float64[Tensor, " k"]:
    if edge == 0:
        return s
    scale = edge / (math.sqrt(p) + math.sqrt(q)) * math.sqrt(q)
    beta = p / q
    t = (s / scale).square() - beta - 1
    root = (t.square() - 4 * beta).clamp(min=0).sqrt()
    return scale * ((t + root) / 2).clamp(min=0).sqrt()


def _profiled_strength(s: Tensor, profile: Profile) -> Float64[Tensor, " k"]:
    rows, cols = profile
    total = float(rows.sum())
    if total == 0 or s.numel() == 0:
        return s
    r, c, z = rows[:, None] / total**0.5, cols[:, None] / total**0.5, s[None, :]
    # B(A) and A(B) are convex and rise: from 0, Newton's method rises to the least solution, and
    # passes where it turns only if there is none
    A, exists = torch.zeros_like(z), torch.ones_like(z, dtype=torch.bool)
    for _ in range(_STEPS):
        b = c / (z - c * A)
        B = b.sum(0, keepdim=True)
        a = r / (z - r * B)
        rest = a.sum(0, keepdim=True) - A
        slope = a.square().sum(0, keepdim=True) * b.square().sum(0, keepdim=True)
        moving = rest.abs() > _ROUNDING * A
        exists &= (z > c.max() * A) & (z > r.max() * B) & ((slope < 1) | ~moving)
        if not bool((moving & exists).any()):
            break
        A = torch.where(moving & exists, A + rest / (1 - slope), A)
    traces = (1 / (z - r * B)).mean(0) * (1 / (z - c * A)).mean(0)
    return torch.where(exists[0], traces.rsqrt(), 0.0)
