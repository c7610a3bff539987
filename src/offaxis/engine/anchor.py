"""The anchor's matrix, prepared once: it serves every checkpoint of every run that shares it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from offaxis.diagnostics.base import Anchor
from offaxis.engine.request import Request
from offaxis.linalg import rounding
from offaxis.linalg.anchored import Basis, singular_basis
from offaxis.linalg.elementwise import frobenius, magnitude_table
from offaxis.linalg.masks import MaskCodes, low_magnitude_codes, mask_codes
from offaxis.linalg.tridiagonal import singular_values


@dataclass(frozen=True)
class PreparedAnchor:
    """One matrix with what every checkpoint of it needs.

    Attributes:
        W: As stored.
        facts: What the diagnostics are told of it.
        request: What it was prepared for.
        codes: By entry, in which masks it lies; None where no masks are wanted.
        basis: Its singular basis; None where nothing needs it.
    """

    W: Tensor
    facts: Anchor
    request: Request
    codes: Tensor | None
    basis: Basis | None


def prepare(W: Tensor, request: Request) -> PreparedAnchor:
    """Factor a matrix once, and sort its entries into masks and binades.

    Args:
        W: m x n in any floating-point format; m x 1 for what is no matrix.
        request: What will be asked of its updates.
    """
    rows, cols = W.shape
    is_matrix = bool(request.needs - {"counts"})
    basis = singular_basis(W, request.top) if is_matrix and request.anchored else None
    s, bound = _spectrum(W, basis, request)
    codes = _codes(W, basis, request)
    table = magnitude_table(W, None if codes is None else codes.codes)
    on_grid = W.dtype == torch.bfloat16 or bool((W.bfloat16() == W).all())
    facts = Anchor(
        rows=rows,
        cols=cols,
        norm=frobenius(W),
        s=s,
        s_bound=bound,
        grid=rounding.grid_of(table, on_grid=on_grid),
        masks=_weights(codes, is_matrix=basis is not None),
        mask_gap=_relative_gap(s, request.rank),
    )
    return PreparedAnchor(W, facts, request, None if codes is None else codes.codes, basis)


def _spectrum(W: Tensor, basis: Basis | None, request: Request) -> tuple[Tensor, Tensor]:
    if basis is None:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    if request.tier == "exact":
        spectrum = singular_values(W)
        return spectrum.s, spectrum.bound
    return basis.s, basis.bound


def _codes(W: Tensor, basis: Basis | None, request: Request) -> MaskCodes | None:
    """Sort entries into the masks; what is no matrix has small weights but no principal ones."""
    if request.alpha == 0:
        return None
    if basis is None:
        return low_magnitude_codes(W, request.alpha)
    left, right = basis.left(request.rank), basis.right(request.rank)
    scaled = (left * basis.s[: request.rank]).float()

    def score(begin: int, end: int) -> Tensor:
        return (scaled[begin:end] @ right.T.float()).abs()

    return mask_codes(W, score, request.alpha)


def _weights(codes: MaskCodes | None, *, is_matrix: bool) -> Mapping[str, Tensor]:
    if codes is None:
        return {}
    low = {"low_magnitude_overlap": codes.low_magnitude}
    return {"principal_overlap": codes.principal, **low} if is_matrix else low


def _relative_gap(s: Tensor, rank: int) -> float:
    if not 0 < rank < s.numel():
        return 1.0
    return float((s[rank - 1] - s[rank]) / s[rank - 1]) if s[rank - 1] > 0 else 0.0
