"""Walks without memory of direction lie on their own null: adapters on that of their factors."""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any

import pytest
import torch

from offaxis.diagnostics.similarity import Stage, TopFactors, of_checkpoint
from offaxis.measurement.walks import FactorWalk, RandomWalk, Walk
from tests.conftest import IN_TRIALS

ROWS, COLS, STEPS = 96, 64, 4
SEEDS, DRAWS = 40 if IN_TRIALS else 20, 19
ASKED = [
    (quantity, index)
    for side in ("left", "right")
    for quantity, index in (
        (f"{side}_to_final", 0),
        (f"{side}_to_final", 2),
        (f"{side}_increment", 2),
    )
]
"""What the checkpoints of a series share with the end, early and late, and with their step."""

Factors = tuple[torch.Tensor, torch.Tensor]
Read = dict[tuple[str, int], float]
Step = Callable[[int, int, torch.Generator], torch.Tensor]


def even(rows: int, rank: int, g: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, rank, generator=g, dtype=torch.float64)


def uneven(rows: int, rank: int, g: torch.Generator) -> torch.Tensor:
    """A few rows hold most of every step."""
    scales = torch.randn(rows, generator=torch.Generator().manual_seed(rows)).exp()
    return scales[:, None] * even(rows, rank, g)


def locked(rows: int, rank: int, g: torch.Generator) -> torch.Tensor:
    """Half of every step's energy goes one way, always the same."""
    way = torch.Generator().manual_seed(rows)
    u, v = (even(n, 1, way) for n in (rows, rank))
    return rank**0.5 * u @ v.T / v.norm() + even(rows, rank, g)


def series(seed: int, rank: int, step: Step, drift: float) -> list[Factors]:
    """L and R at every checkpoint, by independent steps from LoRA's start: R random, L zero."""
    g = torch.Generator().manual_seed(seed)
    L = torch.zeros(ROWS, rank, dtype=torch.float64)
    R = torch.rand(COLS, rank, generator=g, dtype=torch.float64) - 0.5
    found = []
    for _ in range(STEPS):
        L, R = L + 0.01 * step(ROWS, rank, g), R + drift * step(COLS, rank, g)
        found.append((L, R))
    return found


def trained_on_noise(seed: int, rank: int) -> list[Factors]:
    """L and R of a LoRA that gradients of independent Gaussian entries move, by plain SGD."""
    g = torch.Generator().manual_seed(seed)
    L = torch.zeros(ROWS, rank, dtype=torch.float64)
    R = (2 * torch.rand(COLS, rank, generator=g, dtype=torch.float64) - 1) / COLS**0.5
    found = []
    for _ in range(STEPS):
        for _ in range(15):
            G = torch.randn(ROWS, COLS, generator=g, dtype=torch.float64)
            L, R = L - 1e-3 * G @ R, R - 1e-3 * G.T @ L
        found.append((L, R))
    return found


def differences(held: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [held[0], *(b - a for a, b in pairwise(held))]


def factor_walk_of(held: Sequence[Factors]) -> FactorWalk:
    sides = (differences(side) for side in zip(*held, strict=True))
    left, right = ([step.square().mean(1).sqrt() for step in steps] for steps in sides)
    return FactorWalk(left, right, held[0][0].shape[1])


def random_walk_of(held: Sequence[Factors]) -> RandomWalk:
    updates = [L @ R.T for L, R in held]
    rows, cols = (updates[-1].square().mean(side).sqrt() for side in (1, 0))
    return RandomWalk(rows, cols, [float(step.norm()) for step in differences(updates)])


def by_lapack(D: torch.Tensor, K: int) -> TopFactors:
    U, s, Vh = torch.linalg.svd(D, full_matrices=False)
    return TopFactors(U[:, :K], Vh[:K].T, s, torch.zeros(K, dtype=torch.float64))


def read(stages: Sequence[Stage], K: int) -> Read:
    found = {
        (quantity, index): reading.value
        for index, stage in enumerate(stages)
        for quantity, reading in of_checkpoint(
            stage, stages[index - 1] if index else None, stages[-1], K
        ).items()
    }
    return {key: found[key] for key in ASKED}


def reading(held: Sequence[Factors], K: int) -> Read:
    updates = [L @ R.T for L, R in held]
    both = zip(updates, differences(updates), strict=True)
    return read([Stage(by_lapack(D, K), by_lapack(E, K)) for D, E in both], K)


def drawings(walk: Walk, K: int, key: str) -> list[Read]:
    stages = chain(walk.stages(key, DRAWS, K), [walk.ends(key, DRAWS, K)])
    return [read(each, K) for each in zip(*stages, strict=True)]


def places(walk: Callable[[Sequence[Factors]], Walk], K: int, *how: Any) -> dict[Any, torch.Tensor]:
    """By what is asked, how many of each series' draws lie below it, of 0 to DRAWS."""
    found: dict[tuple[str, int], list[int]] = {key: [] for key in ASKED}
    for seed in range(SEEDS):
        held = series(seed, *how)
        own, drawn = reading(held, K), drawings(walk(held), K, f"{seed}")
        for key in ASKED:
            found[key].append(sum(each[key] < own[key] for each in drawn))
    return {key: torch.tensor(values) for key, values in found.items()}


def chi_square(found: torch.Tensor) -> float:
    """Of five bins of equal chance: 4 degrees of freedom."""
    counts = torch.bincount(found * 5 // (DRAWS + 1), minlength=5)
    return float((counts - SEEDS / 5).square().sum() / (SEEDS / 5))


@pytest.mark.parametrize(
    ("rank", "K", "step", "drift"),
    [(4, 4, even, 0.003), (4, 2, uneven, 0.05), (1, 1, even, 0.003)],
)
def test_adapters_that_walk_lie_on_the_walk_of_factors(
    rank: int, K: int, step: Step, drift: float
) -> None:
    """Such a series can be exchanged with its draws: every place among them is as likely."""
    for key, found in places(factor_walk_of, K, rank, step, drift).items():
        assert chi_square(found) < 23.5, key  # passed by one in 10,000


def test_adapters_that_walk_lie_off_the_walk_of_a_matrix() -> None:
    found = places(random_walk_of, 4, 4, even, 0.003)
    most = 4 * SEEDS  # all in one bin
    assert min(chi_square(found[key]) for key in ASKED if key != ("left_to_final", 0)) > 0.6 * most
    for index in (0, 2):
        assert int(found["right_to_final", index].min()) == DRAWS  # the row space that A began with


def test_a_locked_direction_lies_above_the_walk_of_factors() -> None:
    for key, found in places(factor_walk_of, 1, 4, locked, 0.0).items():
        assert float((found == DRAWS).double().mean()) > 0.75, key
        assert int(found.min()) > DRAWS / 2, key


@pytest.mark.parametrize(("K", "within"), [(8, 0.02), (4, 0.25)])
def test_an_adapter_trained_on_noise_is_nearer_to_the_walk_of_factors(
    K: int, within: float
) -> None:
    """Gradients of one factor pass through the other, which independent steps do not know."""
    runs = [trained_on_noise(seed, 8) for seed in range(8)]
    own = [reading(held, K) for held in runs]
    near, far = (
        [each for held in runs for each in drawings(walk(held), K, "noise")]
        for walk in (factor_walk_of, random_walk_of)
    )
    for key in ASKED:
        mean, by_factors, by_matrix = (
            sum(each[key] for each in found) / len(found) for found in (own, near, far)
        )
        assert abs(mean - by_factors) < within, key
        if key[0].startswith("right"):
            assert mean - by_factors > -0.02, key
            assert mean - by_matrix > max(0.25, 2 * (mean - by_factors)), key


def test_a_row_space_that_does_not_move_is_no_finding() -> None:
    (L, R), *rest = series(0, 4, even, 0.0)
    walk = factor_walk_of([(L, R), *rest])
    for stages in chain(walk.stages("still", 3, 4), [walk.ends("still", 3, 4)]):
        for stage, end in zip(stages, walk.ends("still", 3, 4), strict=True):
            reading = of_checkpoint(stage, None, end, 4)["right_to_final"]
            assert reading.value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("walk", [factor_walk_of, random_walk_of])
def test_draws_depend_on_the_key_alone(walk: Callable[[Sequence[Factors]], Walk]) -> None:
    chance = walk(series(0, 4, even, 0.05))
    (first, *_), (again, *_), (other, *_) = (chance.ends(key, 2, 4) for key in ("a", "a", "b"))
    for stage, same in ((again, True), (other, False)):
        assert torch.equal(first.cumulative.left, stage.cumulative.left) is same
