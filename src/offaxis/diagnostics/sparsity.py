"""Update sparsity: the share of weights that a bf16 file shows unchanged."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from annotated_types import Ge, Lt

from offaxis.diagnostics.base import ClosedForm, NullReading, Reading, diagnostic
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.linalg import gates

Eta = Annotated[float, Ge(0), Lt(0.5)]


def gate_name(update: WeightUpdate) -> str:
    """Which threshold the precision gate of an update has."""
    return "gate_half_ulp" if update.anchor.grid.on_grid else "gate_cell_average"


def _gate(update: WeightUpdate, *, eta: float) -> Iterable[ClosedForm]:
    behind, name = update.behind, gate_name(update)
    if behind is None:
        return
    density, sd = gates.gate_density(update.anchor.grid, behind.rms, eta, behind.error)
    for quantity, mean in (("sparsity", 1 - density), ("density", density)):
        yield ClosedForm(quantity, NullReading(name, mean, sd, 0, behind.method))


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
