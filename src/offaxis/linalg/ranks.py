"""Numbers read from a spectrum: ranks, energy, tail exponent.

Every function takes singular values in descending order.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

RESOLVED = 1e-12
"""A singular value below this share of the largest is not told from zero."""


def stable_rank(s: Float64[Tensor, " p"]) -> float:
    r"""Return $\lVert W\rVert_F^2 / \lVert W\rVert_2^2$, in [1, p]; 0 for the zero matrix.

    Source:
        Rudelson & Vershynin 2007, arXiv:math/0503442.

    Example:
        >>> stable_rank(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
        2.25
    """
    if s[0] == 0:
        return 0.0
    return float((s / s[0]).square().sum())


def effective_rank(s: Float64[Tensor, " p"]) -> float:
    r"""Return $\exp(-\sum_i p_i\log p_i)$ with $p = s/\sum s$, in [1, p]; 0 for the zero matrix.

    Source:
        Roy & Vetterli 2007, EUSIPCO, "The effective rank".
    """
    if s[0] == 0:
        return 0.0
    return float(torch.special.entr(s / s.sum()).sum().exp())


def count_above(s: Float64[Tensor, " p"], edge: float) -> int:
    """Return how many singular values lie strictly above a noise edge."""
    return int((s > edge).sum())


def hill_exponent(s: Float64[Tensor, " p"], k: int) -> float | None:
    r"""Return the Hill estimate $[\frac{1}{k-1}\sum_{i<k}\log(\sigma_i/\sigma_k)]^{-1}$.

    Applied to singular values, as in arXiv:2606.07082 appendix E; on eigenvalues it halves.

    Args:
        s: Singular values, descending.
        k: Number of top values used.

    Returns:
        The exponent, > 0; None where it is not defined: fewer than two values, the k-th value not
        resolved above zero, or the top k values all equal.
    """
    if k < 2 or k > s.numel() or s[k - 1] <= RESOLVED * s[0]:
        return None
    mean_log = (s[: k - 1] / s[k - 1]).log().mean()
    return float(1 / mean_log) if mean_log > 0 else None


def iid_stable_rank(m: int, n: int) -> float:
    r"""Return the stable rank of iid noise, $mn/(\sqrt m+\sqrt n)^2$ for large m and n.

    Source:
        The Marchenko-Pastur edge; Bai & Yin 1993, doi:10.1214/aop/1176989118.
    """
    return m * n / (math.sqrt(m) + math.sqrt(n)) ** 2


def effective_rank_bound(s: Float64[Tensor, " p"], bound: Float64[Tensor, " p"]) -> float:
    r"""Return how far errors of the values can have moved the effective rank.

    To first order $\partial H/\partial s_i=-(\log p_i+H)/\sum s$; a value not told from zero can
    have moved the entropy by that of its own error.

    Args:
        s: Singular values, descending.
        bound: Absolute error bound of each.
    """
    if s[0] == 0:
        return 0.0
    total = s.sum()
    p, error = s / total, bound / total
    H = torch.special.entr(p).sum()
    slope = torch.where(p > error, -p.clamp(min=RESOLVED**2).log(), 0.0)
    moved = torch.maximum(error * slope, torch.special.entr(error.clamp(max=math.exp(-1))))
    return float((moved + error * H).sum() * H.exp())


def iid_edge(norm: float, m: int, n: int) -> float:
    r"""Return the top singular value of iid noise, $\lVert E\rVert_F(\sqrt m+\sqrt n)/\sqrt{mn}$.

    Source:
        The Marchenko-Pastur edge; Bai & Yin 1993, doi:10.1214/aop/1176989118.
    """
    return norm * (math.sqrt(m) + math.sqrt(n)) / math.sqrt(m * n)
