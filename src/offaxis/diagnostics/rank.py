"""Ranks of the update: stable, effective, above the noise edge, and the top's share of energy."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

from annotated_types import Ge

from offaxis.diagnostics.base import (
    EPS,
    ZERO_UPDATE,
    ClosedForm,
    NullReading,
    Reading,
    WeightUpdate,
    diagnostic,
)
from offaxis.linalg import ranks

TOP = 16


def _iid(update: WeightUpdate, *, margin: float) -> Iterable[ClosedForm]:
    rank = ranks.iid_stable_rank(*update.delta.W.shape)
    reading = NullReading("marchenko_pastur", rank, 0.0, 0, "closed form, iid entries")
    yield ClosedForm("stable_rank", reading)


@diagnostic(
    version=1,
    units={
        "stable_rank": "1",
        "effective_rank": "1",
        "spikes": "count",
        "top16_energy": "fraction",
    },
    source="arXiv:2606.07082, section 4.1; noise edge by sign flips, arXiv:2012.02985",
    primary=("sign_flip",),
    settings=lambda p: {"margin": 1.02},
    ensembles=("sign_flip", "permutation"),
    closed_forms=_iid,
)
def rank(update: WeightUpdate, *, margin: Annotated[float, Ge(1)]) -> Mapping[str, Reading]:
    """Return four readings of the spectrum of dW; all 0 for a zero update.

    `spikes` counts singular values above the noise edge, `margin` times the largest first singular
    value that dW shows under random signs (draws of which spread by about 0.2 %); its error bound
    is the number of singular values that rounding could carry across. Where p < 16 the top-16
    energy is 1.
    """
    if update.delta.is_zero:
        return dict.fromkeys(rank.units, ZERO_UPDATE)
    s = update.delta.s
    relative = 4 * s.numel() * update.delta.rounding / float(s[0])
    stable, effective = ranks.stable_rank(s), ranks.effective_rank(s)
    edge = margin * update.noise_edge
    at_edge = float(((s - edge).abs() <= update.delta.rounding).sum())
    return {
        "stable_rank": Reading(stable, relative * stable),
        "effective_rank": Reading(effective, relative * effective * (1 - math.log(EPS))),
        "spikes": Reading(float(ranks.count_above(s, edge)), at_edge),
        "top16_energy": Reading(ranks.top_energy(s, TOP), relative),
    }
