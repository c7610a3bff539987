"""Perturbation bounds checked on a measured pair: how much of each bound is used."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.linalg.angles import principal_angles


class Slack(NamedTuple):
    r"""What a bound allows that is measured, as a share of the bound: in [0, 1] if it holds.

    Attributes:
        wedin: Of the sine of the top-k subspaces' largest angle, the larger side, over
            $\lVert D\rVert_2/\delta$; None where the bound says nothing (at least 1).
        weyl: Of the largest movement of a singular value, over $\lVert D\rVert_2$.
        mirsky: Of the movement of all singular values, over $\lVert D\rVert_F$.
        wedin_bound: The bound itself.
    """

    wedin: float | None
    weyl: float
    mirsky: float
    wedin_bound: float


def slack_of(W0: Float64[Tensor, "m n"], W: Float64[Tensor, "m n"], k: int) -> Slack | None:
    r"""Return how much of the bounds of Wedin, Weyl and Mirsky an update uses.

    Wedin with the gap $\delta=\sigma_k(W)-\sigma_{k+1}(W_0)$ between what turned and what it could
    have turned into: $\max(\sin\Theta_U,\sin\Theta_V)\le\max(\lVert R\rVert_2,\lVert S\rVert_2)
    /\delta$ with residuals of at most $\lVert D\rVert_2$. The gap of the anchor alone, as it is
    often written, is no bound.

    Args:
        W0: The anchor.
        W: The current matrix.
        k: The dimension of the subspaces, below the smaller dimension.

    Returns:
        The used shares; None for a zero update. By rounding they may pass 1 by 1e-12 or so.

    Source:
        Wedin 1972, doi:10.1007/BF01932678; Weyl 1912, doi:10.1007/BF01456804; Mirsky 1960,
        doi:10.1093/qmath/11.1.50.
    """
    D = W - W0
    if not bool(D.any()):
        return None
    U0, s0, Vh0 = torch.linalg.svd(W0, full_matrices=False)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    size = float(torch.linalg.matrix_norm(D, 2))
    gap = float(s[k - 1] - (s0[k] if k < len(s0) else 0.0))
    bound = size / gap if gap > 0 else math.inf
    turned = max(
        float(principal_angles(U0[:, :k], U[:, :k])[-1].sin()),
        float(principal_angles(Vh0[:k].T, Vh[:k].T)[-1].sin()),
    )
    return Slack(
        turned / bound if bound < 1 else None,
        float((s - s0).abs().max()) / size,
        float((s - s0).norm() / D.norm()),
        bound,
    )
