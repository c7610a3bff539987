"""Update sparsity: the share of weights that a bf16 file shows unchanged."""

from collections.abc import Iterable, Mapping

import torch

from offaxis.diagnostics.base import (
    ClosedForm,
    NullReading,
    Reading,
    WeightUpdate,
    diagnostic,
)
from offaxis.linalg import rounding


def changed_mask(update: WeightUpdate, eta: float) -> torch.Tensor:
    """Where the update is visible in bf16, as booleans shaped like the matrix."""

    def compare() -> torch.Tensor:
        a = update.anchor.derived("bf16", lambda: rounding.cast(update.anchor.W, torch.bfloat16))
        b = rounding.cast(update.current.W, torch.bfloat16)
        return ~rounding.is_unchanged(a, b, eta)

    return update.current.derived(("changed", eta), compare)


def rounding_gate(update: WeightUpdate, eta: float) -> tuple[str, torch.Tensor]:
    """Name the precision gate of this anchor and give each entry's chance to pass it.

    The update is Gaussian, independent of the weights, and of the delta's own norm.
    """
    weights = update.anchor.derived("grid", lambda: rounding.grid(update.anchor.W))
    rms = update.delta.norm / update.delta.W.numel() ** 0.5
    chance = update.delta.derived(("gate", eta), lambda: rounding.gate(weights, rms, eta))
    return "gate_half_ulp" if weights.on_grid else "gate_cell_average", chance


def _gate(update: WeightUpdate, *, eta: float) -> Iterable[ClosedForm]:
    name, p = rounding_gate(update, eta)
    density = float(p.mean())
    sd = float((p * (1 - p)).sum().sqrt() / p.numel())
    for quantity, mean in (("sparsity", 1 - density), ("density", density)):
        yield ClosedForm(quantity, NullReading(name, mean, sd, 0, "closed form, Gaussian update"))


@diagnostic(
    version=1,
    units={"sparsity": "fraction", "density": "fraction"},
    source="arXiv:2606.07082, section 3.1 and appendix C.3",
    settings=lambda p: {"eta": 1e-3},
    primary=("gate_half_ulp", "gate_cell_average"),
    ensembles=("permutation",),
    closed_forms=_gate,
)
def sparsity(update: WeightUpdate, *, eta: float) -> Mapping[str, Reading]:
    r"""Return the shares of unchanged and of changed entries, in [0, 1].

    An entry is unchanged when its two bf16 values differ by at most eta of the larger. The counts
    are exact. A zero update has sparsity 1 and density 0.
    """
    density = float(changed_mask(update, eta).double().mean())
    flags = ("zero_update",) if update.delta.is_zero else ()
    return {"sparsity": Reading(1 - density, 0.0, flags), "density": Reading(density, 0.0, flags)}
