"""How much of the update lies along the anchor's top directions: left, right, and both."""

from collections.abc import Iterable, Mapping

from offaxis.diagnostics.base import (
    UNDEFINED_AT_ZERO,
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
    undefined,
)
from offaxis.diagnostics.facts import WeightUpdate

SHARES = {"1pct": 0.01, "5pct": 0.05, "10pct": 0.10, "20pct": 0.20}
"""Of the smaller dimension."""

_KINDS = ("left", "right", "joint")


def dimension(share: float, p: int) -> int:
    """The k that a share of the smaller dimension is, at least 1."""
    return max(1, round(share * p))


def _nulls(update: WeightUpdate) -> Iterable[ClosedForm]:
    anchor, sides = update.anchor, update.sides
    for label, share in SHARES.items():
        k = dimension(share, anchor.p)
        isotropic = {"left": k / anchor.rows, "right": k / anchor.cols}
        isotropic["joint"] = isotropic["left"] * isotropic["right"]
        for kind in _KINDS:
            quantity = f"{kind}_{label}"
            if sides is not None:
                mean = float(getattr(sides, f"{kind}_signs")[k - 1])
                method = "closed form, the mean over all signs"
                yield ClosedForm(quantity, NullReading("sign_flip", mean, None, 0, method))
            method = "closed form, an update without preferred directions"
            chance = NullReading("isotropic", min(isotropic[kind], 1.0), None, 0, method)
            yield ClosedForm(quantity, chance)


@diagnostic(
    version=1,
    units={f"{kind}_{label}": "fraction" for kind in _KINDS for label in SHARES},
    source="arXiv:2606.13657, projection energies; the mean over signs is derived here",
    primary=("sign_flip", "isotropic"),
    ensembles=(),
    needs=("sides",),
    is_relative=True,
    closed_forms=_nulls,
)
def projection_energy(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return the shares of $\lVert dW\rVert_F^2$ along the anchor's top k directions, in [0, 1].

    `left` is $\lVert U_k^\top dW\rVert_F^2$, `right` $\lVert dW\,V_k\rVert_F^2$, `joint`
    $\lVert U_k^\top dW\,V_k\rVert_F^2$, for k of 1, 5, 10 and 20 % of the smaller dimension.
    Flagged `tied_gap` where the anchor's k-th direction is not told from the next one. Not defined
    for a zero update or a zero anchor.
    """
    anchor, sides = update.anchor, update.sides
    if anchor.is_zero:
        return undefined(projection_energy, "zero_anchor")
    if update.is_zero or sides is None:
        return dict.fromkeys(projection_energy.units, UNDEFINED_AT_ZERO)
    readings = {}
    for kind in _KINDS:
        for label, share in SHARES.items():
            k = dimension(share, anchor.p)
            flags = ("tied_gap",) if k < anchor.p and anchor.gap(k) <= anchor.gap_bound(k) else ()
            value = float(getattr(sides, kind)[k - 1])
            readings[f"{kind}_{label}"] = Reading(value, sides.bound, flags)
    return readings
