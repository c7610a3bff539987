"""Walks without memory of direction, beside which similarity over time stands as their null.

Whatever the number of checkpoints, a walk holds the position at hand and the one before.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol, runtime_checkable

from torch import Tensor

from offaxis.checkpoints.base import LowRank
from offaxis.diagnostics.base import Tier
from offaxis.diagnostics.similarity import Stage, TopFactors, top_factors
from offaxis.engine import generator_for, leading, leading_of_step
from offaxis.linalg.ensembles import factor_walk, random_walk
from offaxis.measurement.units import Unit

_SMALL = 512
"""Up to this dimension the exact tier follows a walk as quickly as the fast one."""


@runtime_checkable
class Walk(Protocol):
    """Seeded draws of a walk through as many positions as there are checkpoints."""

    null: str
    method: str

    def ends(self, key: str, draws: int, K: int) -> Sequence[Stage]:
        """Every draw's last stage, with K leading vectors."""

    def stages(self, key: str, draws: int, K: int) -> Iterator[Sequence[Stage]]:
        """Yield every draw's stage at each checkpoint but the last."""


def walk_of(held: Sequence[Unit]) -> Walk | None:
    """What chance makes of a run: of adapters a walk of their factors, else one of the matrix.

    None where neither is what adapters would do by chance: measured from another adapter, of
    several ranks, beside checkpoints of full rank.
    """
    is_thin = any(unit.tensors("factor_rank") for unit in held)
    return FactorWalk.of(held) if is_thin else RandomWalk.of(held)


@dataclass(frozen=True)
class RandomWalk:
    """A walk of the whole matrix: the profile of the final update, and the sizes of the steps.

    A step of one draw is a position of the next: both are draws of one Gaussian law up to their
    size, which no subspace knows, so that a step needs no factorisation of its own. The draws go
    side by side, after each has gone once to its end.
    """

    row_rms: Tensor
    col_rms: Tensor
    sizes: Sequence[float]
    null = "random_walk"
    method = "seeded draws of a walk with the update's row and column profile and step sizes"

    @classmethod
    def of(cls, held: Sequence[Unit]) -> "RandomWalk":
        """The one with the profile and the sizes of a run's units."""
        last = held[-1].tensors("row_rms", "col_rms")
        sizes = [float(unit.tensors("increment_norm")["increment_norm"]) for unit in held]
        return cls(last["row_rms"], last["col_rms"], sizes)

    def ends(self, key: str, draws: int, K: int) -> Sequence[Stage]:
        """As of any walk."""
        return _paired([self._final(walk, K) for walk in self._walks(key, draws)])

    def stages(self, key: str, draws: int, K: int) -> Iterator[Sequence[Stage]]:
        """As of any walk."""
        walks = self._walks(key, draws)
        for _ in self.sizes[1:]:
            yield _paired([self._leading(next(positions), K) for positions in walks])

    def _walks(self, key: str, draws: int) -> list[Iterator[Tensor]]:
        """The positions of each draw and of one more, in one buffer each."""
        keys = (generator_for(f"{key}|{draw}", "walk") for draw in range(draws + 1))
        return [random_walk(self.row_rms, self.col_rms, self.sizes, each) for each in keys]

    def _final(self, positions: Iterator[Tensor], K: int) -> TopFactors | None:
        for position in positions:
            last = position
        return self._leading(last, K)

    def _leading(self, position: Tensor, K: int) -> TopFactors | None:
        tier: Tier = "exact" if min(position.shape) <= _SMALL else "fast"
        return _factors(leading(position, K, tier))


@dataclass(frozen=True)
class FactorWalk:
    """A walk of an adapter's factors: the rank, and the sizes of each factor's steps by row."""

    left_steps: Sequence[Tensor]
    right_steps: Sequence[Tensor]
    rank: int
    null = "factor_walk"
    method = "seeded draws of a walk of the factors, with the sizes of their rows' steps"

    @classmethod
    def of(cls, held: Sequence[Unit]) -> "FactorWalk | None":
        """The one with the rank and the sizes of a run's units; None where they do not have one."""
        steps = [unit.tensors("factor_rank", "left_step_rms", "right_step_rms") for unit in held]
        ranks = {float(step["factor_rank"]) if "left_step_rms" in step else None for step in steps}
        rank = ranks.pop()
        if rank is None or ranks:
            return None
        left, right = ([step[f"{side}_step_rms"] for step in steps] for side in ("left", "right"))
        return cls(left, right, int(rank))

    def ends(self, key: str, draws: int, K: int) -> Sequence[Stage]:
        """As of any walk."""
        return [self._stage(*deque(walk, maxlen=1)[0], K) for walk in self._walks(key, draws)]

    def stages(self, key: str, draws: int, K: int) -> Iterator[Sequence[Stage]]:
        """As of any walk."""
        walks = self._walks(key, draws)
        for _ in self.left_steps[1:]:
            yield [self._stage(*next(walk), K) for walk in walks]

    def _walks(self, key: str, draws: int) -> list[Iterator[tuple[LowRank, LowRank]]]:
        """Each draw's positions, each with the one before it."""
        found: list[Iterator[tuple[LowRank, LowRank]]] = []
        for draw in range(draws):
            generator = generator_for(f"{key}|{draw}", self.null)
            walk = factor_walk(self.left_steps, self.right_steps, self.rank, generator)
            found.append(pairwise(chain([self._nothing], (LowRank(*each) for each in walk))))
        return found

    @property
    def _nothing(self) -> LowRank:
        left, right = (
            steps[0].new_zeros(len(steps[0]), 0) for steps in (self.left_steps, self.right_steps)
        )
        return LowRank(left, right)

    def _stage(self, before: LowRank, here: LowRank, K: int) -> Stage:
        now, step = (leading_of_step(here.since(begun), K) for begun in (self._nothing, before))
        return Stage(_factors(now), _factors(step))


def _paired(found: Sequence[TopFactors | None]) -> list[Stage]:
    return [Stage(here, there) for here, there in pairwise(found)]


def _factors(found: Mapping[str, Tensor]) -> TopFactors | None:
    names = ("left", "right", "delta_spectrum", "residuals")
    return top_factors(*(found[name] for name in names))
