"""One update, every reading, every null: the pure heart of a measurement."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Generator, Tensor

from offaxis.diagnostics.base import (
    Diagnostic,
    Matrix,
    NullReading,
    Reading,
    Settings,
    WeightUpdate,
)
from offaxis.linalg.ensembles import permutation, sign_flip
from offaxis.linalg.spectra import gram_svd, gram_values

ENSEMBLES: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    "sign_flip": sign_flip,
    "permutation": permutation,
}

_DRAWN = "seeded draws, spectra by float64 Gram"


class Evaluated(NamedTuple):
    """The readings of one diagnostic on one update, and their nulls by quantity."""

    diagnostic: Diagnostic
    settings: Settings
    readings: Mapping[str, Reading]
    nulls: Mapping[str, Sequence[NullReading]]

    def primary(self, quantity: str) -> NullReading | None:
        """The null that stands beside the reading."""
        wanted = self.diagnostic.primary_of.get(quantity, self.diagnostic.primary)
        found = {null.null: null for null in self.nulls[quantity]}
        return next((found[name] for name in wanted if name in found), None)


class Draws(NamedTuple):
    """How many random updates of each ensemble, and the key they are drawn from."""

    each: int
    edge: int
    key: str


def generator_for(*key: object) -> Generator:
    """A generator that depends on the key alone, so that draws do not depend on who draws."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest) >> 1)


def evaluate(
    update: WeightUpdate,
    diagnostics: Sequence[Diagnostic],
    overrides: Mapping[str, Settings],
    draws: Draws,
) -> list[Evaluated]:
    """Read every diagnostic on an update and on what chance makes of it.

    An ensemble null evaluates the diagnostic itself on random updates of the same anchor; a closed
    form needs no draw. Draws go one after another: no more than one is in memory.
    """
    chosen = [(d, d.resolve(update.anchor.p, overrides.get(d.name, {}))) for d in diagnostics]
    edged = replace(update, noise_edge=_noise_edge(update, diagnostics, draws))
    drawn = _drawn_nulls(edged, chosen, draws)
    found = []
    for item, settings in chosen:
        nulls: dict[str, list[NullReading]] = {quantity: [] for quantity in item.units}
        if item.closed_forms is not None:
            for closed in item.closed_forms(edged, **settings):
                nulls[closed.quantity].append(closed.reading)
        for (name, quantity), null in drawn.items():
            if name == item.name:
                nulls[quantity].extend(null)
        found.append(Evaluated(item, settings, item.function(edged, **settings), nulls))
    return found


def _noise_edge(update: WeightUpdate, diagnostics: Sequence[Diagnostic], draws: Draws) -> float:
    """The largest singular value that the delta shows under random signs."""
    if not any("spikes" in d.units for d in diagnostics):
        return float("inf")
    largest = (
        float(gram_values(sign_flip(update.delta.W, generator_for(draws.key, "edge", i))).s[0])
        for i in range(draws.edge)
    )
    return max(largest, default=float("inf"))


def _drawn_nulls(
    update: WeightUpdate, chosen: Sequence[tuple[Diagnostic, Settings]], draws: Draws
) -> dict[tuple[str, str], list[NullReading]]:
    nulls: dict[tuple[str, str], list[NullReading]] = {}
    for ensemble in ENSEMBLES:
        wanted = [(d, settings) for d, settings in chosen if ensemble in d.ensembles]
        if not wanted:
            continue
        values: dict[tuple[str, str], list[float | None]] = {}
        for randomised in _randomised(update, ensemble, draws):
            for item, settings in wanted:
                for quantity, reading in item.function(randomised, **settings).items():
                    values.setdefault((item.name, quantity), []).append(reading.value)
        for key, sample in values.items():
            nulls.setdefault(key, []).append(_summary(ensemble, sample))
    return nulls


def _randomised(update: WeightUpdate, ensemble: str, draws: Draws) -> Iterator[WeightUpdate]:
    for index in range(draws.each):
        delta = ENSEMBLES[ensemble](update.delta.W, generator_for(draws.key, ensemble, index))
        current = Matrix(update.anchor.W + delta, gram_svd)
        yield replace(update, current=current, delta=Matrix(delta, gram_values))


def _summary(ensemble: str, sample: Sequence[float | None]) -> NullReading:
    return NullReading(ensemble, *mean_and_sd(sample), len(sample), _DRAWN)


def mean_and_sd(sample: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation over draws; None if any draw is not defined, or for one."""
    values = [value for value in sample if value is not None]
    if not values or len(values) < len(sample):
        return None, None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
