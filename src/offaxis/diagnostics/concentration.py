"""How much of the update's energy its largest coordinates hold."""

from collections.abc import Iterable, Mapping

from offaxis.diagnostics.base import (
    UNDEFINED_AT_ZERO,
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
)
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.linalg.concentration import gaussian_energy_of_largest

FRACTIONS = {"top01pct_coordinates": 1e-3, "top1pct_coordinates": 1e-2, "top5pct_coordinates": 5e-2}


def _nulls(update: WeightUpdate) -> Iterable[ClosedForm]:
    entries = update.anchor.rows * update.anchor.cols
    for quantity, fraction in FRACTIONS.items():
        law = gaussian_energy_of_largest(fraction, entries)
        method = "closed form, independent Gaussian entries of one size"
        yield ClosedForm(quantity, NullReading("gaussian", *law, 0, method))


@diagnostic(
    version=1,
    units=dict.fromkeys(FRACTIONS, "fraction"),
    source="arXiv:2606.13657, coordinate energy concentration",
    primary=("gaussian",),
    ensembles=(),
    needs=("largest",),
    of_elements=True,
    is_relative=True,
    closed_forms=_nulls,
)
def concentration(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return the shares of $\lVert dW\rVert_F^2$ in its largest coordinates, in [0, 1].

    Of the largest 0.1 %, 1 % and 5 % of the entries, an entry at the threshold counted in part. Not
    defined for a zero update.
    """
    if update.is_zero:
        return dict.fromkeys(concentration.units, UNDEFINED_AT_ZERO)
    return {
        quantity: Reading(*update.largest[fraction]) for quantity, fraction in FRACTIONS.items()
    }
