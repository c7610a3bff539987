"""Update sparsity: the share of weights that a bf16 file shows unchanged."""

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Lt

from offaxis.diagnostics.base import (
    ClosedForm,
    NullReading,
    Reading,
    WeightUpdate,
    diagnostic,
)
from offaxis.linalg import gates, rounding

Eta = Annotated[float, Ge(0), Lt(0.5)]


class Gate(NamedTuple):
    """The precision gate of one update.

    Attributes:
        name: Which threshold it has.
        method: How the update behind it was sized.
        rms: Root mean square of a Gaussian update of that size.
        error: Standard error of its logarithm; 0 where the size is known.
    """

    name: str
    method: str
    rms: float
    error: float


def rounding_gate(update: WeightUpdate, eta: float) -> Gate:
    """Size a Gaussian update, independent of the weights, to be sent through the cast to bf16.

    Where the file holds more than bf16 the update has the delta's own norm. Where it holds bf16,
    it shows what the cast let through, and the update is the one that would have shown that.
    """
    grid, counts = update.anchor.grid, update.counts[eta]
    name = "gate_half_ulp" if grid.on_grid else "gate_cell_average"
    if update.storage != torch.bfloat16:
        return Gate(name, "closed form, Gaussian update of the delta's norm", update.rms, 0.0)
    method = "closed form, Gaussian update that shows the visible norm in bf16"
    rms = rounding.true_rms(grid, (counts.visible_squares / counts.entries) ** 0.5)
    # a sum of few squares is uncertain by the root of the sum of their squares
    error = counts.visible_fourth**0.5 / counts.visible_squares if rms > 0 else 0.0
    return Gate(name, method, rms, error)


def _gate(update: WeightUpdate, *, eta: float) -> Iterable[ClosedForm]:
    name, method, rms, error = rounding_gate(update, eta)
    density, sd = gates.gate_density(update.anchor.grid, rms, eta, error)
    for quantity, mean in (("sparsity", 1 - density), ("density", density)):
        yield ClosedForm(quantity, NullReading(name, mean, sd, 0, method))


@diagnostic(
    version=1,
    units={"sparsity": "fraction", "density": "fraction"},
    source="arXiv:2606.07082, section 3.1 and appendix C.3",
    settings=lambda p: {"eta": 1e-3},
    primary=("gate_half_ulp", "gate_cell_average"),
    ensembles=("permutation",),
    needs=("counts",),
    of_elements=True,
    closed_forms=_gate,
)
def sparsity(update: WeightUpdate, *, eta: Eta) -> Mapping[str, Reading]:
    r"""Return the shares of unchanged and of changed entries, in [0, 1].

    An entry is unchanged when its two bf16 values differ by at most eta of the larger. The counts
    are exact. A zero update has sparsity 1 and density 0.
    """
    counts = update.counts[eta]
    density = counts.changed / counts.entries
    flags = ("zero_update",) if update.is_zero else ()
    return {"sparsity": Reading(1 - density, 0.0, flags), "density": Reading(density, 0.0, flags)}
