"""Update sparsity: the share of weights that a bf16 file shows unchanged."""

import math
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
from offaxis.linalg import rounding


def changed_mask(update: WeightUpdate, eta: float) -> torch.Tensor:
    """Where the update is visible in bf16, as booleans shaped like the matrix."""

    def compare() -> torch.Tensor:
        a = update.anchor.derived("bf16", lambda: rounding.cast(update.anchor.W, torch.bfloat16))
        b = rounding.cast(update.current.W, torch.bfloat16)
        return ~rounding.is_unchanged(a, b, eta)

    return update.current.derived(("changed", eta), compare)


class Gate(NamedTuple):
    """The precision gate of one update.

    Attributes:
        name: Which threshold it has.
        method: How the update behind it was sized.
        chance: Each entry's chance to pass.
        one_sd_larger: The same for an update larger by the standard error of its size; the same
            where the size is known.
    """

    name: str
    method: str
    chance: torch.Tensor
    one_sd_larger: torch.Tensor


def rounding_gate(update: WeightUpdate, eta: float) -> Gate:
    """Size a Gaussian update, independent of the weights, and send it through the cast to bf16.

    Where the file holds more than bf16 the update has the delta's own norm. Where it holds bf16,
    it shows what the cast let through, and the update is the one that would have shown that.
    """

    def build() -> Gate:
        weights = update.anchor.derived("grid", lambda: rounding.grid(update.anchor.W))
        name = "gate_half_ulp" if weights.on_grid else "gate_cell_average"
        if update.storage != torch.bfloat16:
            rms = update.delta.norm / update.delta.W.numel() ** 0.5
            chance = rounding.gate(weights, rms, eta)
            return Gate(name, "closed form, Gaussian update of the delta's norm", chance, chance)
        shown = update.current.W - rounding.cast(update.anchor.W, torch.bfloat16)
        energy = shown.square()
        rms = rounding.true_rms(weights, float(energy.mean().sqrt()))
        # a sum of few squares is uncertain by the root of the sum of their squares
        error = float(energy.norm() / energy.sum()) if rms > 0 else 0.0
        chance, larger = (rounding.gate(weights, r, eta) for r in (rms, rms * math.exp(error)))
        method = "closed form, Gaussian update that shows the visible norm in bf16"
        return Gate(name, method, chance, larger)

    return update.delta.derived(("gate", eta), build)


def _gate(update: WeightUpdate, *, eta: float) -> Iterable[ClosedForm]:
    name, method, p, larger = rounding_gate(update, eta)
    density = float(p.mean())
    chance_sd = float((p * (1 - p)).sum().sqrt() / p.numel())
    sd = math.hypot(chance_sd, float(larger.mean()) - density)
    for quantity, mean in (("sparsity", 1 - density), ("density", density)):
        yield ClosedForm(quantity, NullReading(name, mean, sd, 0, method))


Eta = Annotated[float, Ge(0), Lt(0.5)]


@diagnostic(
    version=1,
    units={"sparsity": "fraction", "density": "fraction"},
    source="arXiv:2606.07082, section 3.1 and appendix C.3",
    settings=lambda p: {"eta": 1e-3},
    primary=("gate_half_ulp", "gate_cell_average"),
    ensembles=("permutation",),
    closed_forms=_gate,
)
def sparsity(update: WeightUpdate, *, eta: Eta) -> Mapping[str, Reading]:
    r"""Return the shares of unchanged and of changed entries, in [0, 1].

    An entry is unchanged when its two bf16 values differ by at most eta of the larger. The counts
    are exact. A zero update has sparsity 1 and density 0.
    """
    density = float(changed_mask(update, eta).double().mean())
    flags = ("zero_update",) if update.delta.is_zero else ()
    return {"sparsity": Reading(1 - density, 0.0, flags), "density": Reading(density, 0.0, flags)}
