"""Hill exponent: how heavy the tail of the update's spectrum is."""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge

from offaxis.diagnostics.base import UNDEFINED_AT_ZERO, Reading, diagnostic
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.linalg.ranks import hill_exponent


@diagnostic(
    version=1,
    units={"hill": "1"},
    source="Hill 1975, doi:10.1214/aos/1176343247; arXiv:2606.07082, section 4.1 and appendix E",
    settings=lambda p: {"k": min(10, p // 4)},
    primary=("random_factors", "sign_flip"),
    ensembles=("sign_flip", "permutation", "random_factors"),
    needs=("spectrum",),
)
def tail(update: WeightUpdate, *, k: Annotated[int, Ge(2)]) -> Mapping[str, Reading]:
    """Return the Hill exponent of the top k singular values of dW, > 0; smaller is heavier.

    Not defined for a zero update, for k < 2, or where the k values are equal, or as close as
    their errors.
    """
    spectrum = update.spectrum
    if update.is_zero or spectrum is None:
        return {"hill": UNDEFINED_AT_ZERO}
    s = spectrum.top
    value = hill_exponent(s, k)
    if value is None:
        return {"hill": Reading(None, 0.0, ("tail_undefined",), spectrum.tier)}
    # the exponent is the inverse of a mean of logarithms, each moved by at most error / s_k twice
    moved = 2 * float((spectrum.bound[:k] / s[:k]).max()) * value
    if moved >= 0.5:
        return {"hill": Reading(None, 0.0, ("tail_undefined",), spectrum.tier)}
    return {"hill": Reading(value, value * moved / (1 - moved), (), spectrum.tier)}
