"""The float64 Gram matrix of the shorter side, block by block."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.linalg import blas
from torch import Tensor

_DEPTH = 512  # entries of the longer side converted to float64 at a time
_SAFE = 400  # 2^(2 * 400) times any dimension is far inside float64


class Gram(NamedTuple):
    r"""$AA^\top2^{-2e}$ of a matrix or of its transpose A, p x q with p <= q.

    Only the upper triangle of `G` is meant to be read; the lower one is zero on the CPU.
    """

    G: Tensor
    exponent: int


def gram(W: Float[Tensor, "m n"]) -> Gram:
    """Return the Gram matrix of the shorter side, accumulated in float64.

    Products of bfloat16, float16 and float32 entries are exact in float64 and in range; a float64
    matrix whose entries are extreme is scaled by a power of two, exactly.

    Peak extra memory: p^2 + 1300 p float64 numbers, whatever the longer side.

    Args:
        W: A matrix in any floating-point format, on any device.

    Returns:
        The Gram matrix and the exponent e of the scale that was taken out of the matrix.
    """
    exponent = scale_exponent(W)
    p = min(W.shape)
    G = accumulate((block for _, block in blocks(W, exponent)), p, W.device)
    return Gram(G, exponent)


def scale_exponent(W: Float[Tensor, "m n"]) -> int:
    """Return e such that W 2^-e can be squared and summed in float64 without loss."""
    if W.dtype != torch.float64:
        return 0
    low, high = W.aminmax()
    largest = max(float(-low), float(high))
    exponent = int(np.frexp(largest)[1]) if np.isfinite(largest) else 0
    return 0 if abs(exponent) <= _SAFE else max(-1022, min(exponent, 1022))


def blocks(
    W: Float[Tensor, "m n"], exponent: int = 0
) -> Iterator[tuple[slice, Float64[Tensor, "p b"]]]:
    """Yield the shorter side by stretches of the longer one, in float64, times 2^-exponent."""
    wide = W.shape[0] <= W.shape[1]
    for start in range(0, max(W.shape), _DEPTH):
        part = slice(start, min(start + _DEPTH, max(W.shape)))
        block = (W[:, part] if wide else W[part].T).double()
        yield part, block * 2.0**-exponent if exponent else block


def accumulate(
    parts: Iterable[Float64[Tensor, "p b"]], p: int, device: torch.device
) -> Float64[Tensor, "p p"]:
    """Return the sum of the parts' Gram matrices; on the CPU its upper triangle alone."""
    if device.type != "cpu":
        G = torch.zeros(p, p, dtype=torch.float64, device=device)
        for part in parts:
            G.addmm_(part, part.T)
        return G
    total = np.zeros((p, p), order="F")
    for part in parts:
        A = part.numpy()
        rows = A.flags.f_contiguous  # BLAS takes either order, and copies neither
        total = blas.dsyrk(
            1.0, A if rows else A.T, 1.0, total, trans=not rows, lower=True, overwrite_c=True
        )
    return torch.from_numpy(total.T)
