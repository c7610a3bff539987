"""What stands above the noise edge, freed of what noise and the cast to bf16 did to it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from offaxis.diagnostics.facts import Spectrum, WeightUpdate
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.seeds import generator_for
from offaxis.linalg.debias import Profile, correct, noise_profile
from offaxis.linalg.restoration import restore_spikes


def above_edge(
    anchor: PreparedAnchor,
    update: WeightUpdate,
    read: Callable[[], Tensor],
    kept: Mapping[str, Tensor],
    edge: float,
    *,
    key: str,
) -> WeightUpdate:
    """The update with its noise edge and its spikes corrected.

    The noise has the profile of rows and columns that the spikes leave. Where the file holds bf16
    and so does the anchor, what the cast let through is restored to the update behind it.
    """
    spectrum, facts = update.spectrum, anchor.facts
    if spectrum is None:
        return update
    s, left, right = (kept[name] for name in ("delta_spectrum", "left", "right"))
    K = left.shape[1]
    spiked = int((s[:K] > edge).sum())
    energies = kept["row_rms"].square() * facts.cols, kept["col_rms"].square() * facts.rows
    profile = noise_profile(*energies, s[:spiked], left[:, :spiked], right[:, :spiked])
    shape = facts.rows, facts.cols
    found = correct(spectrum.top, edge, *shape, energy=spectrum.energy, profile=profile)
    seen = update.visible
    is_hidden = update.storage == torch.bfloat16 and facts.grid.on_grid and seen is not None
    if is_hidden and seen is not None and 0 < found.spikes <= K:
        rms = update.rms / max(seen.value, torch.finfo(torch.float64).tiny)
        found = restore_spikes(
            found,
            left[:, : found.spikes],
            right[:, : found.spikes],
            anchor.W.bfloat16(),
            read().bfloat16(),
            rms=rms,
            visible=Profile(*energies),
            generator=generator_for(key, "restore"),
        )
    return replace(update, spectrum=replace(spectrum, edge=edge, corrected=found))


def drawn_above_edge(spectrum: Spectrum, edge: float, shape: tuple[int, int]) -> Spectrum:
    """The spectrum of a random update beside the same edge; its noise has no profile of its own."""
    found = correct(spectrum.top, edge, *shape, energy=spectrum.energy)
    return replace(spectrum, edge=edge, corrected=found)
