"""The facts that the relatives alone read, where they are asked for."""

from dataclasses import replace

import torch
from torch import Tensor

from offaxis.diagnostics.concentration import FRACTIONS
from offaxis.diagnostics.facts import Estimate, WeightUpdate
from offaxis.engine.anchor import PreparedAnchor
from offaxis.linalg.concentration import energy_of_largest
from offaxis.linalg.differences import RELATIVE_ERROR, Difference
from offaxis.linalg.onesided import sides_of
from offaxis.linalg.stripes import lines_of
from offaxis.linalg.tolerances import within


def with_relatives(
    anchor: PreparedAnchor, update: WeightUpdate, current: Tensor, moved: Difference
) -> WeightUpdate:
    """The update with what one more pass over its entries, or a projection, tells."""
    request = anchor.request
    needs = request.needs
    if "lines" in needs and request.is_matrix:
        found = {eta: lines_of(anchor.W, current, eta) for eta in request.etas}
        update = replace(update, lines=found)
    if "tolerance" in needs:
        tolerances = {atol: within(anchor.W, current, atol) for atol in request.tolerances}
        update = replace(update, within=tolerances)
    if update.is_zero:
        return update
    if "largest" in needs:
        lost = 4 * (moved.rounding / moved.norm + RELATIVE_ERROR)
        shares = {
            fraction: Estimate(energy_of_largest(moved.D, fraction), lost)
            for fraction in FRACTIONS.values()
        }
        update = replace(update, largest=shares)
    if "sides" in needs and anchor.basis is not None and not anchor.facts.is_zero:
        update = replace(update, sides=sides_of(anchor.basis, moved.D, update.norm))
    return update


def kept_of(update: WeightUpdate) -> dict[str, Tensor]:
    """The curves of the relatives that later stages build on: those of the smallest tolerance."""
    if not update.lines:
        return {}
    rows, cols = update.lines[min(update.lines)]
    ratios = {"row_ratios": rows.ratios, "col_ratios": cols.ratios}
    return {name: values.to(torch.float64) for name, values in ratios.items()}
