"""The leading singular vectors of an update, as later stages build on them."""

from collections.abc import Callable

import torch
from torch import Tensor

from offaxis.diagnostics.base import Tier
from offaxis.engine import exact
from offaxis.engine.parts import leading_of
from offaxis.engine.seeds import seed_for
from offaxis.linalg.differences import difference
from offaxis.linalg.lanczos import top_singular
from offaxis.linalg.sums import frobenius

_CONVERGED = 1e-12  # residual, as a share of the largest value, at which Lanczos is exact
_STEPS = 400
_COARSE = 1e-4  # residual of the fast tier
_SMALL = 512  # up to it the whole spectrum is as quick


def leading(delta: Tensor, vectors: int, tier: Tier) -> dict[str, Tensor]:
    """Return leading vectors, values and residuals of an update, and its norm.

    The exact tier takes them by Lanczos to rounding, or from the whole spectrum where that does not
    converge, as on noise.
    """
    wanted = min(vectors + 1, *delta.shape)
    seed = seed_for("leading", *delta.shape)
    if tier == "exact" and min(delta.shape) <= _SMALL:
        found = exact.leading(delta, vectors)
    elif tier == "fast":
        found = leading_of(top_singular(delta, wanted, seed=seed, tolerance=_COARSE), vectors)
    else:
        top = top_singular(
            delta,
            wanted,
            seed=seed,
            tolerance=_CONVERGED,
            max_steps=_STEPS,
            double=True,
            block=1,
        )
        is_done = bool((top.residual[:vectors] <= _CONVERGED * top.s[0]).all())
        found = leading_of(top, vectors) if is_done else exact.leading(delta, vectors)
    return found | {"norm": torch.tensor(frobenius(delta), dtype=torch.float64)}


def leading_factors(
    before: Callable[[], Tensor], after: Callable[[], Tensor], vectors: int, tier: Tier
) -> dict[str, Tensor]:
    """Return the leading factors of the step from one checkpoint's matrix to another's.

    Both are read when they are needed; the step alone is held while it is factored.
    """
    delta = difference(before(), after()).D
    if tier == "exact" and min(delta.shape) > _SMALL:
        delta = delta.double()  # as Lanczos will want it, in place of a copy beside it
    return leading(delta, vectors, tier)
