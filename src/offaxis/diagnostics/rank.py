"""Ranks of the update: stable, effective, above the noise edge, and freed of noise."""

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from annotated_types import Ge

from offaxis.diagnostics.base import (
    ZERO_UPDATE,
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
)
from offaxis.diagnostics.facts import Spectrum, WeightUpdate
from offaxis.linalg import ranks

TOP = 16

_MISSED = 1e-3
_HIDDEN = 0.5  # with less of the update visible, what is left is no longer its shape


def _iid(update: WeightUpdate, *, margin: float) -> Iterable[ClosedForm]:
    m, n = update.anchor.rows, update.anchor.cols
    method = "closed form, iid entries"
    rank = NullReading("marchenko_pastur", ranks.iid_stable_rank(m, n), 0.0, 0, method)
    yield ClosedForm("stable_rank", rank)
    if update.spectrum is not None:
        above = ranks.count_above(update.spectrum.top, ranks.iid_edge(update.norm, m, n))
        beyond = f"{method}: what its edge would have let through"
        yield ClosedForm("spikes", NullReading("marchenko_pastur", float(above), None, 0, beyond))


@diagnostic(
    version=2,
    units={
        "stable_rank": "1",
        "effective_rank": "1",
        "spikes": "count",
        "top16_energy": "fraction",
        "corrected_stable_rank": "1",
        "corrected_norm": "weight",
        "spike_energy": "fraction",
    },
    source="arXiv:2606.07082, section 4.1; noise edge by sign flips, arXiv:2012.02985; correction "
    "of spikes, arXiv:1305.5870",
    primary=("random_factors", "sign_flip"),
    settings=lambda p: {"margin": 1.02},
    ensembles=("sign_flip", "permutation", "random_factors"),
    needs=("spectrum",),
    closed_forms=_iid,
)
def rank(update: WeightUpdate, *, margin: Annotated[float, Ge(1)]) -> Mapping[str, Reading]:
    """Return seven readings of the spectrum of dW; all 0 for a zero update.

    `spikes` counts singular values above the noise edge, `margin` times the largest first singular
    value that dW shows under random signs (draws of which spread by about 0.2 %); its error bound
    is the number of singular values that the errors of the others could carry across. Of the
    spikes, freed of what noise added to them: `corrected_norm` is the largest,
    `corrected_stable_rank` the sum of their squares over its square, `spike_energy` that sum over
    the energy of dW; 0 without spikes. Where p < 16 the top-16 energy is 1. `hidden_update` marks
    ranks of an update of which bf16 shows less than half: a file that hides the update hides its
    shape.
    """
    spectrum = update.spectrum
    if update.is_zero or spectrum is None:
        return dict.fromkeys(rank.units, ZERO_UPDATE)
    flags = _flags(update)
    s, tier, energy = spectrum.top, spectrum.tier, spectrum.energy
    stable = energy / float(s[0]) ** 2
    error = 2 * float(spectrum.bound[0]) / float(s[0]) + 2 * update.norm_error
    top = float(s[:TOP].square().sum()) / energy
    top_error = 2 * float((spectrum.bound[:TOP] * s[:TOP]).sum()) / energy + update.norm_error
    if not spectrum.is_whole:
        top_error += _MISSED  # of values as close as noise has them, one may be passed over
    at_edge = float(((s - spectrum.edge).abs() <= spectrum.bound).sum())
    above = ranks.count_above(s, spectrum.edge)
    more = ("all_above_edge",) if above == s.numel() and not spectrum.is_whole else ()
    return {
        "stable_rank": Reading(stable, error * stable, flags, tier),
        "effective_rank": Reading(*spectrum.effective_rank, flags, tier),
        "spikes": Reading(float(above), at_edge, (*flags, *more), tier),
        "top16_energy": Reading(min(top, 1.0), top_error, flags, tier),
        **_corrected(spectrum, (*flags, *more)),
    }


def _corrected(spectrum: Spectrum, flags: tuple[str, ...]) -> Mapping[str, Reading]:
    names = ("corrected_stable_rank", "corrected_norm", "spike_energy")
    found = spectrum.corrected
    if found is None or found.stable_rank is None:
        return dict.fromkeys(names, Reading(0.0, 0.0, flags, spectrum.tier))
    relative = 2 * float((spectrum.bound[: found.spikes] / spectrum.top[: found.spikes]).max())
    values = (found.stable_rank, float(found.values.max()), found.energy_share)
    return {
        name: Reading(value, relative * value, flags, spectrum.tier)
        for name, value in zip(names, values, strict=True)
    }


def _flags(update: WeightUpdate) -> tuple[str, ...]:
    seen = update.visible
    is_hidden = update.storage == torch.bfloat16 and seen is not None and seen.value < _HIDDEN
    return ("hidden_update",) if is_hidden else ()
