"""The facts of an update that is a product of thin factors, from the factors."""

import math

import torch
from torch import Tensor

from offaxis.diagnostics.facts import Estimate, Spectrum
from offaxis.engine.parts import Parts
from offaxis.linalg import ranks
from offaxis.linalg.differences import RELATIVE_ERROR, Difference
from offaxis.linalg.low_rank import Triples, completed, dense, triples

Factors = tuple[Tensor, Tensor]
"""L, m x r, and R, n x r, both float64: dW = L R'."""


def moved_by(factors: Factors, found: Triples, dtype: torch.dtype) -> Difference:
    """The update as its random counterparts are drawn from it: its entries in a buffer.

    Norm and profile are those of the factors, and know nothing of what rounding took of an entry.
    """
    D = dense(*factors, dtype)
    rounding = 0.0 if dtype == torch.float64 else torch.finfo(dtype).eps * found.norm
    return Difference(D, found.norm, rounding, found.row_norms, found.col_norms)


def norm_error(found: Triples) -> float:
    """Relative error bound of the norm."""
    if found.norm == 0:
        return RELATIVE_ERROR
    return max(RELATIVE_ERROR, math.sqrt(found.s.numel()) * found.bound / found.norm)


def parts_of(found: Triples, vectors: int) -> Parts:
    """The spectrum, of rank r at most, and the leading vectors that are kept."""
    kept = leading_of_factors(found, vectors)
    s = kept["delta_spectrum"]
    bound = torch.zeros_like(s)
    bound[: found.s.numel()] = found.bound
    rank = Estimate(ranks.effective_rank(s), ranks.effective_rank_bound(s, bound))
    return Parts(Spectrum(s, bound, energy=found.norm**2, effective_rank=rank), kept=kept)


def leading_of_factors(found: Triples, vectors: int) -> dict[str, Tensor]:
    """Leading vectors, all values and the norm, under the names by which units keep them.

    Vectors beyond the rank are an arbitrary orthonormal completion.
    """
    p = min(found.left.shape[0], found.right.shape[0])
    s = found.s.new_zeros(p)
    s[: found.s.numel()] = found.s
    return {
        "left": completed(found.left, vectors),
        "right": completed(found.right, vectors),
        "delta_spectrum": s,
        "residuals": s.new_full((vectors,), found.bound),
        "norm": torch.tensor(found.norm, dtype=torch.float64),
    }


def leading_of_step(factors: Factors, vectors: int) -> dict[str, Tensor]:
    """The leading factors of a step that is such a product."""
    return leading_of_factors(triples(*factors), vectors)
