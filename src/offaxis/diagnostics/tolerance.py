"""Update sparsity at an absolute tolerance, as related work counts it."""

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from annotated_types import Gt

from offaxis.diagnostics.base import ClosedForm, NullReading, Reading, diagnostic
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.diagnostics.sparsity import gate_name
from offaxis.linalg import tolerances


def _nulls(update: WeightUpdate, *, atol: float) -> Iterable[ClosedForm]:
    behind = update.behind
    if behind is None:
        return
    share = tolerances.gate_within(update.anchor.grid, behind.rms, atol)
    gate = NullReading(gate_name(update), share, None, 0, behind.method)
    yield ClosedForm("absolute_sparsity", gate)
    if update.storage == torch.bfloat16:
        yield ClosedForm("stored_absolute_sparsity", gate)
    else:
        share = tolerances.gaussian_within(behind.rms, atol)
        plain = NullReading("gaussian", share, None, 0, behind.method)
        yield ClosedForm("stored_absolute_sparsity", plain)


@diagnostic(
    version=1,
    units={"absolute_sparsity": "fraction", "stored_absolute_sparsity": "fraction"},
    source="arXiv:2505.11711 and its code; arXiv:2606.13657. Not comparable with `sparsity`: "
    "arXiv:2511.08567, appendix E.1",
    settings=lambda p: {"atol": 1e-5},
    primary=("gate_half_ulp", "gate_cell_average", "gaussian"),
    ensembles=(),
    needs=("counts", "tolerance"),
    of_elements=True,
    is_relative=True,
    closed_forms=_nulls,
)
def tolerance(update: WeightUpdate, *, atol: Annotated[float, Gt(0)]) -> Mapping[str, Reading]:
    r"""Return the shares of entries that moved by at most `atol`, in [0, 1].

    `absolute_sparsity` takes both values and their difference in bf16, `stored_absolute_sparsity`
    as the files hold them. The tolerance hides changes of small weights that bf16 shows and counts
    invisible ones of large weights, so that neither is `sparsity`, and both depend on the scale of
    the model. A zero update reads 1.
    """
    found = update.within[atol]
    flags = ("zero_update",) if update.is_zero else ()
    return {
        "absolute_sparsity": Reading(found.in_bf16 / found.entries, 0.0, flags),
        "stored_absolute_sparsity": Reading(found.stored / found.entries, 0.0, flags),
    }
