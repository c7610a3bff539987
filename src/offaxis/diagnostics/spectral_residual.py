"""How much of the update went into moving singular values rather than directions."""

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


def _isotropic(update: WeightUpdate) -> Iterable[ClosedForm]:
    p, q = update.anchor.p, update.anchor.q
    method = "closed form, first order in an update without preferred directions"
    mean, sd = 1.0, (2 / p) ** 0.5
    yield ClosedForm("kappa_spec", NullReading("isotropic", mean, sd, 0, method))
    root = q**-0.5
    yield ClosedForm("spectral_residual", NullReading("isotropic", root, root * sd / 2, 0, method))


@diagnostic(
    version=1,
    units={"spectral_residual": "1", "kappa_spec": "1"},
    source="arXiv:2607.19331; the normalisation of kappa_spec is our reading of it",
    primary=("random_factors", "sign_flip"),
    ensembles=("sign_flip", "random_factors"),
    needs=("shift",),
    is_relative=True,
    closed_forms=_isotropic,
)
def spectral_residual(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return $\lVert\sigma(W)-\sigma(W_0)\rVert_2/\lVert dW\rVert_F$, in [0, 1] (Mirsky).

    It is the distance of W from all matrices with the spectrum of $W_0$, over the length of the
    update. An update without preferred directions leaves, to first order, one of q parts of its
    energy to the p singular values, q the larger dimension: `kappa_spec` is the square of the
    residual times q, 1 for such an update, q for one that turns nothing. A small spectral shift
    with kappa near 1 is the absence of a push, not its avoidance. Not defined for a zero update or
    anchor.
    """
    anchor, shift = update.anchor, update.shift
    if anchor.is_zero:
        return undefined(spectral_residual, "zero_anchor")
    if update.is_zero or shift is None:
        return dict.fromkeys(spectral_residual.units, UNDEFINED_AT_ZERO)
    scale = float(anchor.s.norm()) / update.norm
    value, bound = shift.relative.value * scale, shift.relative.bound * scale
    error = bound + 2 * update.norm_error * value
    kappa = anchor.q * value**2
    return {
        "spectral_residual": Reading(value, error, (), shift.tier),
        "kappa_spec": Reading(kappa, anchor.q * (2 * value + error) * error, (), shift.tier),
    }
