"""Norms and binades of matrices as they are stored, in stretches of entries."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from offaxis.linalg.products import largest

_BLOCK = 1 << 18  # entries summed at a time


def frobenius(W: Float[Tensor, "m n"]) -> float:
    """Return the Frobenius norm, scaled so that no square overflows or underflows.

    No copy of W is made.
    """
    unit = largest(W)
    if unit == 0:
        return 0.0
    scale = math.ldexp(1.0, min(math.frexp(unit)[1], 1023))
    parts = (part.to(torch.float64, copy=True) for part in W.reshape(-1).split(_BLOCK))
    return scale * math.sqrt(math.fsum(float(part.div_(scale).square_().sum()) for part in parts))


def is_on_grid(W: Float[Tensor, "m n"]) -> bool:
    """Return whether a matrix is made of bfloat16 values throughout."""
    return W.dtype == torch.bfloat16 or all(
        bool((part.bfloat16() == part).all()) for part in W.reshape(-1).split(_BLOCK)
    )


def exponent_counts(W: Float[Tensor, "m n"]) -> Int64[Tensor, "256"]:
    """Return how many entries have each exponent field of float32."""
    total = torch.zeros(256, dtype=torch.int64, device=W.device)
    for part in W.reshape(-1).split(_BLOCK):
        fields = part.float().view(torch.int32) >> 23 & 255
        total += torch.bincount(fields, minlength=256)
    return total.cpu()
