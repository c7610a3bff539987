"""Size of the update: Frobenius, relative and spectral norm."""

from collections.abc import Iterable, Mapping

from offaxis.diagnostics.base import (
    EPS,
    ZERO_UPDATE,
    ClosedForm,
    NullReading,
    Reading,
    WeightUpdate,
    diagnostic,
)
from offaxis.linalg.rounding import rounding_noise, spacings


def _storage_rounding(update: WeightUpdate) -> Iterable[ClosedForm]:
    rms = update.delta.norm / update.delta.W.numel() ** 0.5
    grid_of = update.anchor.derived(
        ("spacings", update.storage), lambda: spacings(update.anchor.W, update.storage)
    )
    mean, sd = rounding_noise(grid_of, rms)
    method = f"closed form, rounding to {str(update.storage).removeprefix('torch.')}"
    yield ClosedForm("frobenius_norm", NullReading("storage_rounding", mean, sd, 0, method))
    if not update.anchor.is_zero:
        scale = update.anchor.norm
        relative = NullReading("storage_rounding", mean / scale, sd / scale, 0, method)
        yield ClosedForm("relative_norm", relative)


@diagnostic(
    version=1,
    units={"frobenius_norm": "weight", "relative_norm": "1", "spectral_norm": "weight"},
    source="arXiv:2606.07082, section 4.1",
    primary=("storage_rounding",),
    primary_of={"spectral_norm": ("sign_flip",)},
    ensembles=("sign_flip", "permutation"),
    closed_forms=_storage_rounding,
)
def norm(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return $\lVert dW\rVert_F$, $\lVert dW\rVert_F/\lVert W_0\rVert_F$, $\lVert dW\rVert_2$.

    All 0 for a zero update; the relative norm is not defined for a zero anchor.
    """
    delta, anchor = update.delta, update.anchor
    if delta.is_zero:
        return dict.fromkeys(norm.units, ZERO_UPDATE)
    rounding = delta.W.numel() * EPS
    relative = (
        Reading(None, 0.0, ("zero_anchor",))
        if anchor.is_zero
        else Reading(delta.norm / anchor.norm, 2 * rounding * delta.norm / anchor.norm)
    )
    return {
        "frobenius_norm": Reading(delta.norm, rounding * delta.norm),
        "relative_norm": relative,
        "spectral_norm": Reading(float(delta.s[0]), delta.rounding),
    }
