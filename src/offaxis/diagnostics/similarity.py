"""Subspace similarity over time: when did the update find its directions?

Unlike the other diagnostics this one compares checkpoints with each other, from the factors that
each of them left behind.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

from annotated_types import Ge, Len
from jaxtyping import Float64
from torch import Tensor

from offaxis.diagnostics.base import EPS, Reading, Tier
from offaxis.linalg.subspaces import similarity as subspace_similarity

NAME = "similarity"
VERSION = 1
SOURCE = "arXiv:2606.07082, section 4.2"
RANKS = (4, 16)
Ranks = Annotated[list[Annotated[int, Ge(1)]], Len(1)]
UNITS = {
    "right_to_final": "fraction",
    "left_to_final": "fraction",
    "right_increment": "fraction",
    "left_increment": "fraction",
}
PRIMARY = ("factor_walk", "random_walk")  # of adapters, of everything else

_RESOLVED = 0.1  # beyond it the K-th direction is not told from the next one


class TopFactors(NamedTuple):
    """The leading singular vectors of one update, as columns, with values and residuals.

    `s` holds at least one value more than there are vectors, where the matrix has one more.
    """

    left: Float64[Tensor, "m k"]
    right: Float64[Tensor, "n k"]
    s: Float64[Tensor, " t"]
    residuals: Float64[Tensor, " k"]

    def uncertainty(self, K: int) -> float:
        """Bound of the top-K subspaces' error in radians: what is left over the gap behind them."""
        below = float(self.s[K]) if self.s.numel() > K else 0.0
        gap = float(self.s[K - 1]) - below
        squared = float(self.s[K - 1]) ** 2 - below**2
        if squared <= 0:
            return math.inf
        rounding = 100 * EPS * float(self.s[0]) ** 2 / squared
        return rounding + float(self.residuals[:K].norm()) / gap


def top_factors(
    left: Float64[Tensor, "m k"],
    right: Float64[Tensor, "n k"],
    s: Float64[Tensor, " t"],
    residuals: Float64[Tensor, " k"],
) -> TopFactors | None:
    """Return the factors of an update; None for a zero one, which has no directions."""
    return TopFactors(left, right, s, residuals) if s[0] > 0 else None


class Stage(NamedTuple):
    """One checkpoint of a trajectory: its update, and the step it took since the one before.

    None stands for a zero update, which has no directions. `follows` is False where the step began
    at another checkpoint than the one before in the list, which has been deleted since.
    """

    cumulative: TopFactors | None
    increment: TopFactors | None
    follows: bool = True


def ranks_for(p: int, requested: Sequence[int] = RANKS) -> list[int]:
    """The K that are small enough to mean something in a matrix of smaller dimension p."""
    return [K for K in requested if p >= 4 * K]


def similarity(
    stages: Sequence[Stage], K: int, tier: Tier = "exact"
) -> Sequence[Mapping[str, Reading]]:
    r"""Return, for each checkpoint, what its top-K subspaces share with two others.

    `to_final` compares the update so far with the final one,
    $\frac1K\lVert V_K(t)^\top V_K(t_\text{end})\rVert_F^2$. The final update contains the early
    one, so it rises for any process. `increment` compares the update at the *previous* checkpoint
    with the step taken since, which do not contain each other. Values lie in [0, 1]; not defined
    where one side is zero, nor for the increment at the first checkpoint.
    """
    return [
        of_checkpoint(stage, stages[index - 1] if index else None, stages[-1], K, tier)
        for index, stage in enumerate(stages)
    ]


def of_checkpoint(
    stage: Stage, before: Stage | None, final: Stage, K: int, tier: Tier = "exact"
) -> Mapping[str, Reading]:
    """Return what one checkpoint shares with the final one and with the one before.

    Args:
        stage: The checkpoint.
        before: The one before; None at the first.
        final: The final one, the same object where it is this one.
        K: The dimension of the subspaces.
        tier: How the factors were taken.
    """
    earlier, missing = (None, "first_checkpoint") if before is None else (before, "zero_update")
    if earlier is not None and not stage.follows:
        earlier, missing = None, "checkpoint_missing"
    flags = ("final_checkpoint",) if stage is final else ()
    return _pair(
        stage.cumulative,
        final.cumulative,
        K,
        "to_final",
        missing="zero_update",
        flags=flags,
        tier=tier,
    ) | _pair(
        earlier and earlier.cumulative, stage.increment, K, "increment", missing=missing, tier=tier
    )


def _pair(
    a: TopFactors | None,
    b: TopFactors | None,
    K: int,
    name: str,
    *,
    missing: str,
    flags: tuple[str, ...] = (),
    tier: Tier,
) -> dict[str, Reading]:
    if a is None or b is None:
        undefined = Reading(None, 0.0, (missing,))
        return {f"right_{name}": undefined, f"left_{name}": undefined}
    bound = min(2 * (a.uncertainty(K) + b.uncertainty(K)), 1.0)
    if bound > _RESOLVED:
        flags = (*flags, "subspace_unresolved")
    right = min(subspace_similarity(a.right[:, :K], b.right[:, :K]), 1.0)
    left = min(subspace_similarity(a.left[:, :K], b.left[:, :K]), 1.0)
    return {
        f"right_{name}": Reading(right, bound, flags, tier),
        f"left_{name}": Reading(left, bound, flags, tier),
    }
