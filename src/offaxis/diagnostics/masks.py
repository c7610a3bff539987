"""Where the visible update lies: on principal weights, or on small ones."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt

from offaxis.diagnostics.base import (
    ClosedForm,
    Matrix,
    NullReading,
    Reading,
    WeightUpdate,
    diagnostic,
)
from offaxis.diagnostics.sparsity import Eta, changed_mask, rounding_gate
from offaxis.linalg.masks import bottom_fraction, top_fraction

Masks = Mapping[str, torch.Tensor]


def _masks(anchor: Matrix, rank: int, alpha: float) -> Masks:
    """The two masks of the anchor, as weights in [0, 1] that share out ties."""

    def build() -> Masks:
        s = anchor.s[:rank]
        principal = (anchor.left(rank) * s @ anchor.right(rank).T).abs()
        return {
            "principal_overlap": top_fraction(principal, alpha),
            "low_magnitude_overlap": bottom_fraction(anchor.W.abs(), alpha),
        }

    return anchor.derived(("masks", rank, alpha), build)


def _nulls(update: WeightUpdate, *, alpha: float, rank: int, eta: float) -> Iterable[ClosedForm]:
    name, method, p, larger = rounding_gate(update, eta)
    expected = p.sum()
    for quantity, mask in _masks(update.anchor, rank, alpha).items():
        yield ClosedForm(quantity, NullReading("chance", alpha, 0.0, 0, "the mask's density"))
        if expected == 0:
            yield ClosedForm(quantity, NullReading(name, None, None, 0, "no change expected"))
            continue
        mean = float((p * mask).sum() / expected)
        spread = float(
            (p * (1 - p) * (mask - mean).square()).sum().sqrt() / expected
        )  # delta method
        shift = float((larger * mask).sum() / larger.sum()) - mean
        reading = NullReading(name, mean, math.hypot(spread, shift), 0, method)
        yield ClosedForm(quantity, reading)


@diagnostic(
    version=1,
    units={"principal_overlap": "fraction", "low_magnitude_overlap": "fraction"},
    source="arXiv:2606.07082, section 3.1 and appendix C.3 (alpha from its figure 3)",
    settings=lambda p: {"alpha": 0.3, "rank": min(64, max(1, p // 8)), "eta": 1e-3},
    primary=("gate_half_ulp", "gate_cell_average"),
    ensembles=("permutation",),
    closed_forms=_nulls,
)
def masks(
    update: WeightUpdate,
    *,
    alpha: Annotated[float, Gt(0), Lt(1)],
    rank: Annotated[int, Ge(1)],
    eta: Eta,
) -> Mapping[str, Reading]:
    r"""Return the shares of the visible update inside two masks of the anchor, in [0, 1].

    The principal mask holds the alpha share of entries largest in the anchor's rank-`rank`
    reconstruction, the low-magnitude mask the alpha share smallest in the anchor itself; the
    denominator is the visible update, $|M\cap M_\text{upd}|/|M_\text{upd}|$. Ties at a threshold
    are shared out. Not defined where no change is visible.
    """
    changed = changed_mask(update, eta).double()
    visible = float(changed.sum())
    gap = _relative_gap(update.anchor, rank)
    readings = {}
    for quantity, mask in _masks(update.anchor, rank, alpha).items():
        flags = ("mask_at_tie",) if quantity == "principal_overlap" and gap < _TIE else ()
        if visible > 0:
            readings[quantity] = Reading(float((mask * changed).sum()) / visible, 0.0, flags)
        else:
            why = "zero_update" if update.delta.is_zero else "no_visible_change"
            readings[quantity] = Reading(None, 0.0, (*flags, why))
    return readings


_TIE = 1e-8  # below this relative gap the rank-r reconstruction depends on rounding


def _relative_gap(anchor: Matrix, rank: int) -> float:
    s = anchor.s
    if rank >= s.numel():
        return 1.0
    return float((s[rank - 1] - s[rank]) / s[rank - 1]) if s[rank - 1] > 0 else 0.0
