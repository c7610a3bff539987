"""The facts of an update that is a product of thin factors, from the factors."""

import math

import torch
from torch import Tensor

from offaxis.diagnostics.facts import Estimate, Spectrum
from offaxis.engine.parts import Parts
from offaxis.linalg import ranks
from offaxis.linalg.differences import RELATIVE_ERROR, Difference
from offaxis.linalg.ensembles import random_factors
from offaxis.linalg.low_rank import Triples, completed, dense, triples, write_product_

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
    return Parts(_spectrum(found, kept["delta_spectrum"]), kept=kept)


def redrawn_(delta: Tensor, seed: int, *, rank: int, norm: float) -> Parts:
    """Put a product of random factors into an update's buffer, and tell its spectrum from these."""
    rows, cols = delta.shape
    generator = torch.Generator().manual_seed(seed)
    left, right = random_factors((rows, cols), rank, norm, generator)
    factors = left.to(delta.device), right.to(delta.device)
    write_product_(delta, *factors)
    found = triples(*factors)
    return Parts(_spectrum(found, _values(found)))


def _spectrum(found: Triples, s: Tensor) -> Spectrum:
    """The singular values s of a product; those beyond the rank are zero, and err by nothing."""
    bound = torch.zeros_like(s)
    bound[: found.s.numel()] = found.bound
    rank = Estimate(ranks.effective_rank(s), ranks.effective_rank_bound(s, bound))
    return Spectrum(s, bound, energy=found.norm**2, effective_rank=rank)


def _values(found: Triples) -> Tensor:
    """All singular values, with the zeros beyond the rank."""
    s = found.s.new_zeros(min(found.left.shape[0], found.right.shape[0]))
    s[: found.s.numel()] = found.s
    return s


def leading_of_factors(found: Triples, vectors: int) -> dict[str, Tensor]:
    """Leading vectors, all values and the norm, under the names by which units keep them.

    Vectors beyond the rank are an arbitrary orthonormal completion.
    """
    return {
        "left": completed(found.left, vectors),
        "right": completed(found.right, vectors),
        "delta_spectrum": _values(found),
        "residuals": found.s.new_full((vectors,), found.bound),
        "norm": torch.tensor(found.norm, dtype=torch.float64),
    }


def leading_of_step(factors: Factors, vectors: int) -> dict[str, Tensor]:
    """The leading factors of a step that is such a product."""
    return leading_of_factors(triples(*factors), vectors)
