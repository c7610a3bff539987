"""Normalised spectral shift: how far the singular values moved."""

from collections.abc import Mapping

from offaxis.diagnostics.base import ZERO_UPDATE, Reading, WeightUpdate, diagnostic


@diagnostic(
    version=1,
    units={"spectral_shift": "1"},
    source="arXiv:2606.07082, section 3.1; arXiv:2511.08567",
    primary=("sign_flip",),
    ensembles=("sign_flip",),
    needs=("shift",),
)
def spectral_shift(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return $\lVert\sigma(W)-\sigma(W_0)\rVert_2/\lVert\sigma(W_0)\rVert_2$, >= 0.

    At most the relative norm of the update (Mirsky). 0 for a zero update; not defined for a zero
    anchor.
    """
    shift = update.shift
    if update.anchor.is_zero:
        return {"spectral_shift": Reading(None, 0.0, ("zero_anchor",))}
    if update.is_zero or shift is None:
        return {"spectral_shift": ZERO_UPDATE}
    return {"spectral_shift": Reading(*shift.relative, (), shift.tier)}
