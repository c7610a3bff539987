"""Whether the visible update gathers in rows and columns."""

from collections.abc import Iterable, Mapping

from offaxis.diagnostics.base import (
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
    undefined,
)
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.diagnostics.sparsity import Eta, sparsity
from offaxis.linalg import stripes

_SIDES = ("row", "col")


def _nulls(update: WeightUpdate, *, eta: float) -> Iterable[ClosedForm]:
    changed = update.counts[eta].table[..., 1].sum(1).double()
    for side, lines in zip(_SIDES, update.lines.get(eta, ()), strict=False):
        for null, law, method in (
            (
                "stratified",
                stripes.placed_in_binades(lines, changed),
                "closed form, the changes of each binade placed at random in it",
            ),
            (
                "chance",
                stripes.placed_at_random(lines),
                "closed form, the changes placed at random in the matrix",
            ),
        ):
            mean, sd = law if law is not None else (None, None)
            yield ClosedForm(f"{side}_dispersion", NullReading(null, mean, sd, 0, method))


@diagnostic(
    version=1,
    units={"row_dispersion": "1", "col_dispersion": "1"},
    source="arXiv:2511.08567, section 2.2 (row-wise and column-wise ratios); the dispersion and "
    "its nulls are derived here",
    settings=sparsity.settings,
    settings_of="sparsity",
    primary=("stratified",),
    ensembles=(),
    needs=("counts", "lines"),
    is_relative=True,
    closed_forms=_nulls,
)
def line_ratios(update: WeightUpdate, *, eta: Eta) -> Mapping[str, Reading]:
    r"""Return how unevenly the visible changes are spread over rows and over columns, >= 0.

    The variance of the update ratios $\rho_i=\frac1n\sum_jM_{ij}$ of rows ($\kappa_j$ of columns)
    over what the same number of changes placed at random would show: 1 without stripes. Lines of
    small weights change more often through the precision gate alone; the null `stratified` knows
    of it. The ratios themselves are kept beside the readings. Not defined where nothing or
    everything changed, nor for a single line.
    """
    if update.counts[eta].changed == 0:
        return undefined(line_ratios, "zero_update" if update.is_zero else "no_visible_change")
    readings = {}
    for side, lines in zip(_SIDES, update.lines[eta], strict=True):
        value = stripes.dispersion(lines)
        flags = () if value is not None else ("no_contrast",)
        readings[f"{side}_dispersion"] = Reading(value, 0.0, flags)
    return readings
