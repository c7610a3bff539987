"""The second stage: similarity between checkpoints, from the factors they left behind."""

from collections.abc import Mapping, Sequence

import torch

from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import NullReading, Reading
from offaxis.diagnostics.similarity import Stage, TopFactors
from offaxis.linalg.ensembles import random_walk
from offaxis.linalg.spectra import gram_svd
from offaxis.measurement.evaluate import generator_for, mean_and_sd
from offaxis.measurement.options import Options
from offaxis.measurement.units import Cells, Unit, reading_cells
from offaxis.table import definition

_CURVES = ("delta_spectrum", "left", "right")
_STEP = ("increment_spectrum", "increment_left", "increment_right")
_WALK = "seeded draws of a walk with the update's row and column profile and step sizes"

Sample = Sequence[Sequence[Mapping[str, Reading]]]


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
    sizes = [float(unit.tensors(_STEP[0])[_STEP[0]].norm()) for unit in held]
    walks = [
        _walk_stages(last["row_rms"], last["col_rms"], sizes, max(ranks), f"{key}|{draw}")
        for draw in range(options.walk_draws)
    ]
    for K in ranks:
        named = definition(similarity.VERSION, {"K": K, "final": steps[-1], "as": storage})
        readings = similarity.similarity(stages, K)
        sample = [similarity.similarity(walk, K) for walk in walks]
        for index, values in enumerate(readings):
            for quantity, reading in values.items():
                dimension = m if quantity.startswith("left") else n
                nulls = _nulls(sample, index, quantity, K / dimension)
                head = (similarity.NAME, quantity, named)
                unit = similarity.UNITS[quantity]
                rows[index][0].append(reading_cells(head, reading, unit, nulls[0]))
                rows[index][1].extend([*head, *null] for null in nulls)
    return rows


def _nulls(sample: Sample, index: int, quantity: str, chance: float) -> list[NullReading]:
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


def _factors(s: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> TopFactors | None:
    return TopFactors(left, right, s) if s[0] > 0 else None


def _walk_stages(
    row_rms: torch.Tensor, col_rms: torch.Tensor, sizes: Sequence[float], K: int, key: str
) -> list[Stage]:
    position = torch.zeros(row_rms.numel(), col_rms.numel(), dtype=row_rms.dtype)
    stages = []
    for step in random_walk(row_rms, col_rms, sizes, generator_for(key, "walk")):
        position = position + step
        stages.append(Stage(_top(position, K), _top(step, K)))
    return stages


def _top(W: torch.Tensor, K: int) -> TopFactors | None:
    U, s, Vh = gram_svd(W, K)
    assert U is not None
    assert Vh is not None
    return TopFactors(U, Vh.T, s) if s[0] > 0 else None
