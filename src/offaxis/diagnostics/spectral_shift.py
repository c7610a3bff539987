"""Normalised spectral shift: how far the singular values moved."""

from collections.abc import Mapping

from offaxis.diagnostics.base import ZERO_UPDATE, Reading, diagnostic
from offaxis.diagnostics.facts import WeightUpdate


@diagnostic(
    version=2,
    units={"spectral_shift": "1", "validity": "1"},
    source="arXiv:2606.07082, section 3.1; arXiv:2511.08567",
    primary=("random_factors", "sign_flip"),
    ensembles=("sign_flip", "random_factors"),
    needs=("shift",),
)
def spectral_shift(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return $\lVert\sigma(W)-\sigma(W_0)\rVert_2/\lVert\sigma(W_0)\rVert_2$, >= 0.

    At most the relative norm of the update (Mirsky). 0 for a zero update; not defined for a zero
    anchor.

    `validity` belongs to the fast tier, which takes the shift by perturbation of the anchor's
    singular values: the median over i of $|E_{i,i+1}|/(\sigma_i^2-\sigma_{i+1}^2)$, E what the
    update adds to the anchor's Gram matrix in its singular basis. Up to 0.05 the perturbation is
    trusted, if its second order is small beside the first; beyond it the exact tier takes the
    shift. The exact tier does not need it, and leaves it undefined (`not_needed`).
    """
    shift = update.shift
    if update.anchor.is_zero:
        return dict.fromkeys(spectral_shift.units, Reading(None, 0.0, ("zero_anchor",)))
    if update.is_zero or shift is None:
        return dict.fromkeys(spectral_shift.units, ZERO_UPDATE)
    validity = Reading(None, 0.0, ("not_needed",))
    if shift.validity is not None:
        validity = Reading(shift.validity, 0.0, (), "fast")
    return {
        "spectral_shift": Reading(*shift.relative, (), shift.tier),
        "validity": validity,
    }
