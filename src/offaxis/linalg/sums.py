"""Differences, norms and binades of matrices as they are stored, in stretches of entries."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from offaxis.linalg.products import largest

RELATIVE_ERROR = 64 * torch.finfo(torch.float64).eps
"""Of a norm, from pairwise sums of squares in float64."""

_BLOCK = 1 << 18  # entries summed at a time


def difference(W0: Float[Tensor, "m n"], W1: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Return W1 - W0 in float32 for 16-bit formats, else in float64.

    The difference of two 16-bit numbers is exact in float32 unless one is below 2^-13 of the other;
    where it could overflow it is taken in float64.
    """
    narrow = W0.dtype.itemsize <= 2 and W1.dtype.itemsize <= 2
    if narrow and largest(W0) + largest(W1) > torch.finfo(torch.float32).max:
        narrow = False
    delta = W1.to(torch.float32 if narrow else torch.float64, copy=True)
    height = max(1, _BLOCK // max(1, delta.shape[1]))
    for here, taken in zip(delta.split(height), W0.split(height), strict=True):
        here.sub_(taken)  # in stretches, as torch converts the whole of what it is given
    return delta


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
