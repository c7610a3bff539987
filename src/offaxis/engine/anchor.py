"""The anchor's matrix, prepared once: it serves every checkpoint of every run that shares it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from offaxis.diagnostics.facts import Anchor
from offaxis.engine.request import Request
from offaxis.errors import NumericsError
from offaxis.linalg import rounding
from offaxis.linalg.basis import Basis, singular_basis
from offaxis.linalg.elementwise import magnitude_table, strata_of
from offaxis.linalg.factors import Spectrum, spectrum
from offaxis.linalg.masks import MaskCodes, mask_codes
from offaxis.linalg.products import largest, product
from offaxis.linalg.sums import exponent_counts, frobenius, is_on_grid

_TAME = (1e-100, 1e100)


@dataclass(frozen=True)
class PreparedAnchor:
    """One matrix with what every checkpoint of it needs.

    Attributes:
        W: As stored.
        facts: What the diagnostics are told of it.
        request: What it was prepared for.
        codes: By entry, in which masks it lies; None where no masks are wanted.
        strata: Its entries by binade and mask code.
        basis: Its singular basis; None where nothing needs it.
    """

    W: Tensor
    facts: Anchor
    request: Request
    codes: Tensor | None
    strata: Tensor
    basis: Basis | None


def prepare(W: Tensor, request: Request) -> PreparedAnchor:
    """Factor a matrix once, and sort its entries into masks and binades.

    Args:
        W: m x n in any floating-point format; m x 1 for what is no matrix.
        request: What will be asked of its updates.
    """
    rows, cols = W.shape
    _require_tame(W)
    exact = spectrum(W) if request.is_anchored and request.tier == "exact" else None
    basis = singular_basis(W, k_top=request.top) if request.is_anchored else None
    s, bound = _values(basis, exact)
    codes = _codes(W, basis, request)
    held = None if codes is None else codes.codes
    magnitudes = magnitude_table(W, held)
    facts = Anchor(
        rows=rows,
        cols=cols,
        norm=frobenius(W),
        s=s,
        s_bound=bound,
        magnitudes=magnitudes,
        grid=rounding.grid_of(magnitudes, on_grid=is_on_grid(W)),
        exponents=exponent_counts(W),
        masks=_weights(codes, basis),
        mask_gap=_relative_gap(s, request.rank),
    )
    return PreparedAnchor(W, facts, request, held, strata_of(magnitudes), basis)


def _require_tame(W: Tensor) -> None:
    """Squares of float64 weights must neither overflow nor vanish; no other format can do so."""
    size = largest(W)
    if size != 0 and not _TAME[0] < size < _TAME[1]:
        raise NumericsError(
            f"a {W.shape[0]} x {W.shape[1]} matrix",
            expected=f"weights between {_TAME[0]:g} and {_TAME[1]:g}",
            found=f"{size:g}",
            do="scale the checkpoint: these are no weights of a trained model",
        )


def _values(basis: Basis | None, exact: Spectrum | None) -> tuple[Tensor, Tensor]:
    if basis is None:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return (basis.s, basis.s_bound) if exact is None else (exact.s, exact.bound)


def _codes(W: Tensor, basis: Basis | None, request: Request) -> MaskCodes | None:
    """Sort entries into the masks; what is no matrix has small weights but no principal ones."""
    if request.alpha == 0:
        return None
    if basis is None:
        return mask_codes(W, W.abs(), request.alpha)
    scaled = (basis.U_top[:, : request.rank] * basis.s[: request.rank]).float()
    right = basis.V_top[:, : request.rank].T.float()

    def score(first: int, last: int) -> Tensor:
        return product(scaled[first:last], right).abs_()

    return mask_codes(W, score, request.alpha)


def _weights(codes: MaskCodes | None, basis: Basis | None) -> Mapping[str, Tensor]:
    if codes is None:
        return {}
    low = {"low_magnitude_overlap": codes.low_magnitude}
    return low if basis is None else {"principal_overlap": codes.principal, **low}


def _relative_gap(s: Tensor, rank: int) -> float:
    if not 0 < rank < s.numel():
        return 1.0
    return float((s[rank - 1] - s[rank]) / s[rank - 1]) if s[rank - 1] > 0 else 0.0
