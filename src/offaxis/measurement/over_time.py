"""The second stage: similarity between checkpoints, from the factors they left behind.

Of a run only the checkpoint at hand, the one before it and the final one are in memory, whatever
the number of checkpoints; of the null's walks likewise.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import NullReading, Reading, Tier
from offaxis.diagnostics.similarity import Stage, TopFactors, of_checkpoint
from offaxis.engine import generator_for, leading, mean_and_sd
from offaxis.linalg.ensembles import random_walk
from offaxis.measurement.options import Options
from offaxis.measurement.units import Cells, Unit, reading_cells
from offaxis.table import definition

_CURVES = ("left", "right", "delta_spectrum", "residuals")
_STEP = ("increment_left", "increment_right", "increment_spectrum", "increment_residuals")
_METHOD = "seeded draws of a walk with the update's row and column profile and step sizes"
_SMALL = 512
"""Up to this dimension the exact tier follows a walk as quickly as the fast one."""

Sample = Sequence[Mapping[str, Reading]]
"""What each draw of the walk shows at one checkpoint."""


def similarity_cells(
    held: Sequence[Unit], steps: Sequence[int], storage: str, key: str, options: Options
) -> Iterator[tuple[Cells, Cells]]:
    """Yield, for each unit of one matrix in one run, its similarity rows and their nulls."""
    walk = _walk(held)
    ranks = similarity.ranks_for(min(walk.shape), options.similarity_ranks)
    keys = [f"{key}|{draw}" for draw in range(options.walk_draws + 1)]
    samples = _samples(walk, ranks, keys) if ranks else iter([{}] * len(held))
    final = _stage(held[-1], held[-2] if len(held) > 1 else None)
    before: tuple[Unit | None, Stage | None] = (None, None)
    for unit, sample in zip(held, samples, strict=True):
        stage = final if unit is held[-1] else _stage(unit, before[0])
        rows: tuple[Cells, Cells] = ([], [])
        for K in ranks:
            named = definition(similarity.VERSION, {"K": K, "final": steps[-1], "as": storage})
            values = of_checkpoint(stage, before[1], final, K, options.tier)
            for quantity, reading in values.items():
                dimension = walk.shape[0 if quantity.startswith("left") else 1]
                nulls = _nulls(sample[K], quantity, K / dimension)
                head = (similarity.NAME, quantity, named)
                rows[0].append(reading_cells(head, reading, similarity.UNITS[quantity], nulls[0]))
                rows[1].extend([*head, *null] for null in nulls)
        yield rows
        before = unit, stage


def _nulls(sample: Sample, quantity: str, chance: float) -> list[NullReading]:
    values = [readings[quantity].value for readings in sample]
    mean, sd = mean_and_sd(values)
    return [
        NullReading(similarity.PRIMARY, mean, sd, len(values), _METHOD),
        NullReading("chance", chance, 0.0, 0, "K over the dimension"),
    ]


def _stage(unit: Unit, before: Unit | None) -> Stage:
    held = unit.tensors(*_CURVES, *_STEP)
    cumulative, step = (_factors(*(held[name] for name in names)) for names in (_CURVES, _STEP))
    follows = before is None or unit.provenance.before == before.provenance.current
    return Stage(cumulative, step, follows)


def _factors(left: Tensor, right: Tensor, s: Tensor, residuals: Tensor) -> TopFactors | None:
    return TopFactors(left, right, s, residuals) if s[0] > 0 else None


class _Walk(NamedTuple):
    """What the null keeps of a run: the profile of its final update, and the sizes of its steps."""

    row_rms: Tensor
    col_rms: Tensor
    sizes: Sequence[float]

    @property
    def shape(self) -> tuple[int, int]:
        return self.row_rms.numel(), self.col_rms.numel()

    def positions(self, key: str) -> Iterator[Tensor]:
        """The positions of one draw, in one buffer."""
        return random_walk(self.row_rms, self.col_rms, self.sizes, generator_for(key, "walk"))

    def leading(self, position: Tensor, K: int) -> TopFactors | None:
        tier: Tier = "exact" if min(self.shape) <= _SMALL else "fast"
        found = leading(position, K, tier)
        return _factors(*(found[name] for name in _CURVES))


def _walk(held: Sequence[Unit]) -> _Walk:
    last = held[-1].tensors("row_rms", "col_rms")
    sizes = [float(unit.tensors("increment_norm")["increment_norm"]) for unit in held]
    return _Walk(last["row_rms"], last["col_rms"], sizes)


def _samples(
    walk: _Walk, ranks: Sequence[int], keys: Sequence[str]
) -> Iterator[Mapping[int, Sample]]:
    """Yield what all draws show at each checkpoint, by rank.

    A step of one walk is a position of the next: both are draws of one Gaussian law up to their
    size, which no subspace knows, so that a step needs no factorisation of its own. The walks go
    side by side, after each has gone once to its end, which is compared with all that is before.
    """
    K = max(ranks)
    finals = [_final(walk, K, key) for key in keys]
    ends = [Stage(here, there) for here, there in pairwise(finals)]
    walks = [walk.positions(key) for key in keys]
    before: Sequence[Stage | None] = [None] * len(ends)
    for index in range(len(walk.sizes)):
        stages = ends
        if index < len(walk.sizes) - 1:
            found = [walk.leading(next(positions), K) for positions in walks]
            stages = [Stage(here, there) for here, there in pairwise(found)]
        yield {
            rank: [of_checkpoint(*each, rank) for each in zip(stages, before, ends, strict=True)]
            for rank in ranks
        }
        before = stages


def _final(walk: _Walk, K: int, key: str) -> TopFactors | None:
    for position in walk.positions(key):
        last = position
    return walk.leading(last, K)
