"""Nulls by draw: the diagnostics themselves, read on random updates of the same anchor."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.diagnostics.base import (
    Diagnostic,
    Need,
    NullReading,
    Settings,
    Tier,
)
from offaxis.diagnostics.facts import WeightUpdate
from offaxis.engine import exact, fast, low_rank
from offaxis.engine.anchor import PreparedAnchor
from offaxis.engine.parts import Parts
from offaxis.engine.seeds import seed_for
from offaxis.engine.spikes import drawn_above_edge
from offaxis.linalg.elementwise import Counts, count
from offaxis.linalg.ensembles import flip_signs_, permute_
from offaxis.linalg.factors import spectrum as spectrum_of

Randomise = Callable[[Tensor, int], Parts | None]
"""Makes a random update in a buffer from a seed, and tells what it knows of it beforehand."""

ENSEMBLES: Mapping[str, Randomise] = {"sign_flip": flip_signs_, "permutation": permute_}

Settled = Sequence[tuple[Diagnostic, Settings]]

_BLOCK = 1 << 18  # entries rounded at a time, in cache
_SMALL = 256
"""Up to this dimension the exact tier is as quick as the fast one."""


class Draws(NamedTuple):
    """How many random updates of each ensemble, and the key they are drawn from."""

    each: int
    edge: int
    key: str


def noise_edge(delta: Tensor, draws: Draws) -> float:
    """The largest singular value that the update shows under random signs, then taken off again."""
    largest = -math.inf
    for index in range(draws.edge):
        flip_signs_(delta, seed_for(draws.key, "edge", index))
        seed = seed_for(draws.key, "edge", index, "start")
        value = spectrum_of(delta).s[0] if min(delta.shape) <= _SMALL else fast.largest(delta, seed)
        largest = max(largest, float(value))
    for index in range(draws.edge):
        flip_signs_(delta, seed_for(draws.key, "edge", index))
    return largest if draws.edge else math.inf


def drawn_nulls(
    anchor: PreparedAnchor,
    update: WeightUpdate,
    delta: Tensor,
    *,
    settled: Settled,
    draws: Draws,
    rank: int | None = None,
) -> dict[tuple[str, str], list[NullReading]]:
    """Return the nulls of every (diagnostic, quantity) that an ensemble gives.

    The random updates of one ensemble are made in the buffer `delta`, each from the one before:
    signs drawn on signs and an order drawn on an order are as random as on the update itself.
    Signs are taken off again by a second flip, which spares a copy; orders come after them, and
    then products of random factors, which need nothing that was in the buffer.

    Args:
        anchor: The prepared matrix.
        update: The facts of the update.
        delta: Its entries.
        settled: The diagnostics, with their settings.
        draws: How many, and their key.
        rank: Of its factors, where it is a product of thin ones.
    """
    nulls: dict[tuple[str, str], list[NullReading]] = {}
    for ensemble, randomise in _ensembles(update, rank).items():
        wanted = _asked_of(ensemble, settled, is_matrix=anchor.request.is_matrix)
        if not wanted or update.is_zero:
            continue
        values: dict[tuple[str, str], list[float | None]] = {}
        tiers: dict[str, set[Tier]] = {}
        needs = frozenset(need for item, _ in wanted for need in item.needs)
        for index in range(draws.each):
            known = randomise(delta, seed_for(draws.key, ensemble, index)) or Parts()
            seed = seed_for(draws.key, ensemble, index, "start")
            drawn = _beside_edge(_facts(anchor, update, delta, needs, seed, known=known), update)
            for item, settings in wanted:
                for quantity, reading in item.function(drawn, **settings).items():
                    values.setdefault((item.name, quantity), []).append(reading.value)
                    tiers.setdefault(item.name, set()).add(reading.tier)
        if ensemble == "sign_flip":
            for index in range(draws.each):
                randomise(delta, seed_for(draws.key, ensemble, index))
        for (name, quantity), sample in values.items():
            method = f"seeded draws, {' and '.join(sorted(tiers[name]))} tier"
            summary = NullReading(ensemble, *mean_and_sd(sample), len(sample), method)
            nulls.setdefault((name, quantity), []).append(summary)
    return nulls


def _ensembles(update: WeightUpdate, rank: int | None) -> Mapping[str, Randomise]:
    if rank is None:
        return ENSEMBLES
    redrawn_ = partial(low_rank.redrawn_, rank=rank, norm=update.norm)
    return {**ENSEMBLES, "random_factors": redrawn_}


def _asked_of(ensemble: str, settled: Settled, *, is_matrix: bool) -> Settled:
    """The diagnostics that have this null: of what is no matrix, those that count its elements."""
    wanted = [pair for pair in settled if ensemble in pair[0].ensembles]
    return wanted if is_matrix else [pair for pair in wanted if pair[0].needs <= {"counts"}]


def _facts(
    anchor: PreparedAnchor,
    update: WeightUpdate,
    delta: Tensor,
    needs: frozenset[Need],
    seed: int,
    *,
    known: Parts,
) -> WeightUpdate:
    """The facts of a random update, by the quicker engine whose bounds are met."""
    if "counts" in needs:
        counts = _counted(anchor, delta, update.counts)
        update = replace(update, counts=counts, odds={})
    if not needs - {"counts"}:
        return update
    if anchor.facts.p <= _SMALL:
        wanted = needs if known.spectrum is None else needs - {"spectrum"}
        return known.beside(_exactly(anchor, update, delta, wanted)).of(update)
    found = fast.decompose(anchor, delta, update.norm, seed, needs=needs, drawn=True, known=known)
    if fast.lacks(found, anchor.request, needs):
        found = fast.mended(found, _exactly(anchor, update, delta, needs - {"spectrum"}))
    return found.of(update)


def _beside_edge(drawn: WeightUpdate, update: WeightUpdate) -> WeightUpdate:
    if drawn.spectrum is None or update.spectrum is None:
        return drawn
    shape = update.anchor.rows, update.anchor.cols
    return replace(drawn, spectrum=drawn_above_edge(drawn.spectrum, update.spectrum.edge, shape))


def _exactly(
    anchor: PreparedAnchor, update: WeightUpdate, delta: Tensor, needs: frozenset[Need]
) -> Parts:
    found = Parts()
    if needs & {"shift", "rotation"} and anchor.basis is not None:
        current = delta.to(torch.float64, copy=True).add_(anchor.W)
        found = exact.movement(anchor, current, needs)
    if "spectrum" in needs:
        found = found.beside(exact.of_delta(delta, norm=update.norm, rounding=0.0, vectors=0))
    if "blocks" in needs:
        found = found.beside(fast.blocks(anchor, delta, update.norm, drawn=True))
    return found


def _counted(anchor: PreparedAnchor, delta: Tensor, etas: Iterable[float]) -> dict[float, Counts]:
    """Count a random update's changes in bf16; float32 is fine enough a step towards it."""
    current = torch.empty_like(delta, dtype=torch.bfloat16)
    parts = (X.split(max(1, _BLOCK // delta.shape[1])) for X in (current, delta, anchor.W))
    for rounded, step, W in zip(*parts, strict=True):
        rounded.copy_((step + W).float())
    return {eta: count(anchor.W, current, anchor.codes, eta, strata=anchor.strata) for eta in etas}


def mean_and_sd(sample: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation over draws; None if any draw is not defined, or for one."""
    values = [value for value in sample if value is not None]
    if not values or len(values) < len(sample):
        return None, None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
