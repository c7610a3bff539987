"""The second stage: similarity between checkpoints, from the factors they left behind.

Of a run only the checkpoint at hand, the one before it and the final one are in memory, whatever
the number of checkpoints.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import NullReading, Reading
from offaxis.diagnostics.similarity import Stage, of_checkpoint, top_factors
from offaxis.engine import mean_and_sd
from offaxis.measurement.options import Options
from offaxis.measurement.units import Cells, Unit, reading_cells
from offaxis.measurement.walks import Walk, walk_of
from offaxis.table import definition

_CURVES = ("left", "right", "delta_spectrum", "residuals")
_STEP = ("increment_left", "increment_right", "increment_spectrum", "increment_residuals")

Sample = Sequence[Mapping[str, Reading]]
"""What each draw of the walk shows at one checkpoint."""


def similarity_cells(
    held: Sequence[Unit], steps: Sequence[int], storage: str, key: str, options: Options
) -> Iterator[tuple[Cells, Cells]]:
    """Yield, for each unit of one matrix in one run, its similarity rows and their nulls."""
    shape = _shape(held[-1])
    ranks = similarity.ranks_for(min(shape), options.similarity_ranks)
    walk = walk_of(held) if ranks else None
    samples: Iterable[Mapping[int, Sample]] = [{}] * len(held)
    if walk is not None:
        samples = _samples(walk, ranks, key, options.walk_draws)
    final = _stage(held[-1], held[-2] if len(held) > 1 else None)
    before: tuple[Unit | None, Stage | None] = (None, None)
    for unit, sample in zip(held, samples, strict=True):
        stage = final if unit is held[-1] else _stage(unit, before[0])
        rows: tuple[Cells, Cells] = ([], [])
        for K in ranks:
            named = definition(similarity.VERSION, {"K": K, "final": steps[-1], "as": storage})
            values = of_checkpoint(stage, before[1], final, K, options.tier)
            for quantity, reading in values.items():
                head = (similarity.NAME, quantity, named)
                beside = None if walk is None else _walked(walk, sample[K], quantity)
                dimension = shape[0 if quantity.startswith("left") else 1]
                chance = NullReading("chance", K / dimension, 0.0, 0, "K over the dimension")
                rows[0].append(reading_cells(head, reading, similarity.UNITS[quantity], beside))
                rows[1].extend([*head, *null] for null in (beside, chance) if null is not None)
        yield rows
        before = unit, stage


def _walked(walk: Walk, sample: Sample, quantity: str) -> NullReading:
    values = [readings[quantity].value for readings in sample]
    return NullReading(walk.null, *mean_and_sd(values), len(values), walk.method)


def _shape(unit: Unit) -> tuple[int, int]:
    rows, cols = (profile.numel() for profile in unit.tensors("row_rms", "col_rms").values())
    return rows, cols


def _stage(unit: Unit, before: Unit | None) -> Stage:
    held = unit.tensors(*_CURVES, *_STEP)
    cumulative, step = (top_factors(*(held[name] for name in names)) for names in (_CURVES, _STEP))
    follows = before is None or unit.provenance.before == before.provenance.current
    return Stage(cumulative, step, follows)


def _samples(
    walk: Walk, ranks: Sequence[int], key: str, draws: int
) -> Iterator[Mapping[int, Sample]]:
    """Yield what all draws show at each checkpoint, by rank.

    Their ends come first, with which all that is before is compared.
    """
    K = max(ranks)
    ends = walk.ends(key, draws, K)
    before: Sequence[Stage | None] = [None] * draws
    for stages in chain(walk.stages(key, draws, K), [ends]):
        yield {
            rank: [of_checkpoint(*each, rank) for each in zip(stages, before, ends, strict=True)]
            for rank in ranks
        }
        before = stages
