"""Size of the update: Frobenius, relative and spectral norm."""

from collections.abc import Iterable, Mapping

from offaxis.diagnostics.base import (
    ZERO_UPDATE,
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
)
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.linalg.rounding import rounding_noise, spacings_of


def _storage_rounding(update: WeightUpdate) -> Iterable[ClosedForm]:
    anchor = update.anchor
    mean, sd = rounding_noise(spacings_of(anchor.exponents, update.storage), update.rms)
    method = f"closed form, rounding to {str(update.storage).removeprefix('torch.')}"
    yield ClosedForm("frobenius_norm", NullReading("storage_rounding", mean, sd, 0, method))
    if update.spectrum is None:
        yield ClosedForm("spectral_norm", NullReading("storage_rounding", mean, sd, 0, method))
    if not anchor.is_zero:
        relative = mean / anchor.norm, sd / anchor.norm
        yield ClosedForm("relative_norm", NullReading("storage_rounding", *relative, 0, method))


@diagnostic(
    version=1,
    units={"frobenius_norm": "weight", "relative_norm": "1", "spectral_norm": "weight"},
    source="arXiv:2606.07082, section 4.1",
    primary=("storage_rounding",),
    primary_of={"spectral_norm": ("random_factors", "sign_flip", "storage_rounding")},
    ensembles=("sign_flip", "permutation", "random_factors"),
    needs=("spectrum",),
    of_elements=True,
    closed_forms=_storage_rounding,
)
def norm(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return $\lVert dW\rVert_F$, $\lVert dW\rVert_F/\lVert W_0\rVert_F$, $\lVert dW\rVert_2$.

    All 0 for a zero update; the relative norm is not defined for a zero anchor. A vector is its own
    singular vector.
    """
    if update.is_zero:
        return dict.fromkeys(norm.units, ZERO_UPDATE)
    size, anchor, spectrum = update.norm, update.anchor, update.spectrum
    relative = (
        Reading(None, 0.0, ("zero_anchor",))
        if anchor.is_zero
        else Reading(size / anchor.norm, 2 * update.norm_error * size / anchor.norm)
    )
    largest = (
        Reading(float(spectrum.top[0]), float(spectrum.bound[0]), (), spectrum.tier)
        if spectrum is not None
        else Reading(size, update.norm_error * size)
    )
    return {
        "frobenius_norm": Reading(size, update.norm_error * size),
        "relative_norm": relative,
        "spectral_norm": largest,
    }
