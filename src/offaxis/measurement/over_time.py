"""The second stage: similarity between checkpoints, from the factors they left behind."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import NullReading, Reading, Tier
from offaxis.diagnostics.similarity import Stage, TopFactors
from offaxis.engine import generator_for, leading, mean_and_sd
from offaxis.linalg.ensembles import random_walk
from offaxis.measurement.options import Options
from offaxis.measurement.units import Cells, Unit, reading_cells
from offaxis.table import definition

_CURVES = ("left", "right", "delta_spectrum", "residuals")
_STEP = ("increment_left", "increment_right", "increment_spectrum", "increment_residuals")
_WALK = "seeded draws of a walk with the update's row and column profile and step sizes"
_SMALL = 512
"""Up to this dimension the exact tier follows a walk as quickly as the fast one."""

Walks = Sequence[Sequence[Mapping[str, Reading]]]


def similarity_cells(
    held: Sequence[Unit], steps: Sequence[int], storage: str, key: str, options: Options
) -> list[tuple[Cells, Cells]]:
    """Return, for each unit of one matrix in one run, its similarity rows and their nulls."""
    last = held[-1].tensors("row_rms", "col_rms")
    m, n = last["row_rms"].numel(), last["col_rms"].numel()
    rows: list[tuple[Cells, Cells]] = [([], []) for _ in held]
    ranks = similarity.ranks_for(min(m, n), options.similarity_ranks)
    if not ranks:
        return rows
    stages = [_stage(unit, before) for before, unit in zip([None, *held[:-1]], held, strict=True)]
    sizes = [float(unit.tensors("increment_norm")["increment_norm"]) for unit in held]
    paths = [
        _walk(last["row_rms"], last["col_rms"], sizes, max(ranks), f"{key}|{draw}")
        for draw in range(options.walk_draws + 1)
    ]
    for K in ranks:
        named = definition(similarity.VERSION, {"K": K, "final": steps[-1], "as": storage})
        readings = similarity.similarity(stages, K, options.tier)
        sample = [similarity.similarity(walk, K) for walk in _crossed(paths)]
        for index, values in enumerate(readings):
            for quantity, reading in values.items():
                dimension = m if quantity.startswith("left") else n
                nulls = _nulls(sample, index, quantity, K / dimension)
                head = (similarity.NAME, quantity, named)
                unit = similarity.UNITS[quantity]
                rows[index][0].append(reading_cells(head, reading, unit, nulls[0]))
                rows[index][1].extend([*head, *null] for null in nulls)
    return rows


def _nulls(sample: Walks, index: int, quantity: str, chance: float) -> list[NullReading]:
    values = [walk[index][quantity].value for walk in sample]
    mean, sd = mean_and_sd(values)
    return [
        NullReading(similarity.PRIMARY, mean, sd, len(values), _WALK),
        NullReading("chance", chance, 0.0, 0, "K over the dimension"),
    ]


def _stage(unit: Unit, before: Unit | None) -> Stage:
    held = unit.tensors(*_CURVES, *_STEP)
    cumulative, step = (_factors(*(held[name] for name in names)) for names in (_CURVES, _STEP))
    follows = before is None or unit.provenance.before == before.provenance.current
    return Stage(cumulative, step, follows)


def _factors(
    left: torch.Tensor, right: torch.Tensor, s: torch.Tensor, residuals: torch.Tensor
) -> TopFactors | None:
    return TopFactors(left, right, s, residuals) if s[0] > 0 else None


Path = Sequence[TopFactors | None]


def _walk(
    row_rms: torch.Tensor, col_rms: torch.Tensor, sizes: Sequence[float], K: int, key: str
) -> Path:
    """The leading factors along one walk; one position is in memory at a time."""
    path: list[TopFactors | None] = []
    tier: Tier = "exact" if min(row_rms.numel(), col_rms.numel()) <= _SMALL else "fast"
    for position in random_walk(row_rms, col_rms, sizes, generator_for(key, "walk")):
        found = leading(position, K, tier)
        path.append(_factors(*(found[name] for name in _CURVES)))
    return path


def _crossed(paths: Sequence[Path]) -> list[list[Stage]]:
    """Set each walk beside the next: a step of one is a position of another.

    Both are draws of one Gaussian law up to their size, which no subspace knows, so that a step
    needs no factorisation of its own.
    """
    return [
        [Stage(here, there) for here, there in zip(path, other, strict=True)]
        for path, other in pairwise(paths)
    ]
