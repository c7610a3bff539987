"""Normalised spectral shift: how far the singular values moved."""

from collections.abc import Mapping

from offaxis.diagnostics.base import ZERO_UPDATE, Reading, WeightUpdate, diagnostic


@diagnostic(
    version=1,
    units={"spectral_shift": "1"},
    source="arXiv:2606.07082, section 3.1; arXiv:2511.08567",
    primary=("sign_flip",),
    ensembles=("sign_flip",),
)
def spectral_shift(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return $\lVert\sigma(W)-\sigma(W_0)\rVert_2/\lVert\sigma(W_0)\rVert_2$, >= 0.

    At most the relative norm of the update (Mirsky). 0 for a zero update; not defined for a zero
    anchor.
    """
    old, new = update.anchor, update.current
    if old.is_zero:
        return {"spectral_shift": Reading(None, 0.0, ("zero_anchor",))}
    if update.delta.is_zero:
        return {"spectral_shift": ZERO_UPDATE}
    scale = float(old.s.norm())
    bound = (old.rounding + new.rounding) * old.p**0.5 / scale
    return {"spectral_shift": Reading(float((new.s - old.s).norm()) / scale, bound)}
