"""Edits of an update: part of its directions, its size, its spectrum, or other directions."""

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Generator, Tensor

from offaxis.linalg.orthonormal import orthonormalised

End = Literal["top", "bottom"]


def truncated(D: Float64[Tensor, "m n"], k: int, end: End = "top") -> Float64[Tensor, "m n"]:
    """Return an update with its k largest (or k smallest) singular values alone.

    Args:
        D: The update.
        k: How many to keep; all where there are fewer.
        end: Which ones. Of equal values any may be kept.

    Source:
        arXiv:2605.11739, the truncation experiments.

    Example:
        >>> truncated(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), 1).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    U, s, Vh = torch.linalg.svd(D, full_matrices=False)
    kept = slice(None, k) if end == "top" else slice(max(len(s) - k, 0), None)
    found: Tensor = (U[:, kept] * s[kept]) @ Vh[kept]
    return found


def to_norm_of(E: Float64[Tensor, "m n"], D: Float64[Tensor, "m n"]) -> Float64[Tensor, "m n"]:
    """Return E at the Frobenius norm of D; zero stays zero."""
    size = E.norm()
    return E * (D.norm() / size) if size > 0 else E


def extrapolated(
    W: Float64[Tensor, "*shape"], before: Float64[Tensor, "*shape"], factor: float
) -> Float64[Tensor, "*shape"]:
    """Return W + factor (W - before): on along the last step.

    Source:
        arXiv:2605.11739 (EffOPD): W + 2k (W_t - W_{t/2}), k = 1 ... 5.
    """
    return W + factor * (W - before)


def with_spectrum_of(
    W: Float64[Tensor, "m n"], anchor: Float64[Tensor, "m n"]
) -> Float64[Tensor, "m n"]:
    r"""Return $U\Sigma_0V^\top$: the directions of W with the singular values of the anchor.

    The matrix nearest to W among all with that spectrum (Mirsky); where two values of W are equal
    it is one of several.

    Source:
        arXiv:2607.19331, the functional test of the spectrum.
    """
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    found: Tensor = (U * torch.linalg.svdvals(anchor)) @ Vh
    return found


def turned_at_random(D: Float64[Tensor, "m n"], generator: Generator) -> Float64[Tensor, "m n"]:
    """Return a matrix of the same singular values in uniformly drawn (Haar) directions.

    The null of an edit: as large, and of the same rank, but along nothing that training found.
    """
    s = torch.linalg.svdvals(D)
    U, V = (
        orthonormalised(torch.randn(size, len(s), generator=generator, dtype=torch.float64))
        for size in D.shape
    )
    left: Tensor = U * s
    return left @ V.T
