"""How much of the update lies inside the anchor's own principal block."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from annotated_types import Ge

from offaxis.diagnostics.base import (
    UNDEFINED_AT_ZERO,
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
    undefined,
)
from offaxis.diagnostics.facts import WeightUpdate


def _isotropic(update: WeightUpdate, *, k: int) -> Iterable[ClosedForm]:
    anchor = update.anchor
    share = min(k * k / (anchor.p * anchor.q), 1.0)
    method = "closed form, k^2/(pq) of an update without preferred directions"
    yield ClosedForm("principal_energy", NullReading("isotropic", share, 0.0, 0, method))


@diagnostic(
    version=1,
    units={"principal_energy": "fraction"},
    source="arXiv:2606.07082, section 3.1 (the off-principal complement)",
    settings=lambda p: {"k": min(512, max(1, p // 8))},
    primary=("random_factors", "sign_flip"),
    ensembles=("sign_flip", "random_factors"),
    needs=("blocks",),
    closed_forms=_isotropic,
)
def principal_energy(update: WeightUpdate, *, k: Annotated[int, Ge(1)]) -> Mapping[str, Reading]:
    r"""Return $\lVert U_k^\top dW\,V_k\rVert_F^2/\lVert dW\rVert_F^2$, in [0, 1].

    $U_k$ and $V_k$ hold the anchor's top k singular vectors. The curve over all k is kept beside
    the readings. Not defined for a zero update, a zero anchor, or k above the smaller dimension.
    """
    anchor, blocks = update.anchor, update.blocks
    if not 1 <= k <= anchor.p:
        return undefined(principal_energy, "k_outside_dimension")
    if anchor.is_zero:
        return undefined(principal_energy, "zero_anchor")
    if update.is_zero or blocks is None:
        return {"principal_energy": UNDEFINED_AT_ZERO}
    if k > blocks.inside.numel():
        return undefined(principal_energy, "block_not_drawn")
    return {"principal_energy": Reading(float(blocks.inside[k - 1]), blocks.bound, (), blocks.tier)}
