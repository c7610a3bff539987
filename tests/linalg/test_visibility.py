"""What a bf16 file shows of an update, judged by updates that are known."""

import pytest
import torch
from tests.linalg import llm_like as like

from offaxis.linalg import rounding, visibility

SHAPE = (512, 1024)
LAWS = ["gauss", "laplace", "row_column_scales"]


@pytest.fixture(scope="module")
def W() -> torch.Tensor:
    return like.weights(0, *SHAPE, on_grid=True)


def grid_and_steps(W: torch.Tensor, X: torch.Tensor):
    code = torch.zeros(W.shape, dtype=torch.int32)
    limit = visibility.open_limit(like.counted(W, X, code))
    steps = visibility.open_steps(W.to(like.BF16), X.to(like.BF16), limit) if limit else None
    return rounding.grid_of(like.magnitudes(W, code), on_grid=True), steps


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rms", [3e-6, 1.5e-5, 1.5e-4])
def test_the_visible_fraction_is_told_from_the_file(W: torch.Tensor, law: str, rms: float) -> None:
    D = rms * like.independent(law, 1, *SHAPE)
    shown = rounding.cast(W + D, like.BF16) - W
    truth = min(float(shown.norm() / D.norm()), 1.0)
    error = float(shown.square().norm() / shown.square().sum())
    visible = float(shown.square().mean().sqrt())
    grid, steps = grid_and_steps(W, W + shown)
    found = visibility.visible_fraction(grid, visible, error, steps)
    gaussian = visibility.visible_fraction(grid, visible, error, None)
    assert 0 < found.value <= 1
    # the Gaussian route knows no other law
    tolerance = 0.01 if law == "gauss" else 0.12 * truth
    assert abs(gaussian.value - truth) < 4 * gaussian.sd + tolerance
    if found.method != gaussian.method:
        # rows of small weights may by chance be rows of large steps
        assert abs(found.value - truth) < 4 * found.sd + 0.02
    else:
        assert rms < 1e-5


def test_no_fraction_of_nothing(W: torch.Tensor) -> None:
    grid, _ = grid_and_steps(W, W + 1)
    assert visibility.visible_fraction(grid, 0.0, 0.0, None) is None


def test_open_steps_are_counted_one_by_one(W: torch.Tensor) -> None:
    X = rounding.cast(W + 1e-4 * like.independent("gauss", 2, *SHAPE), like.BF16)
    limit = 115
    found = visibility.open_steps(W.to(like.BF16), X.to(like.BF16), limit)
    steps = (X - W)[W.abs() < 2.0 ** (limit - 126)]
    assert int(found.counts.sum()) == steps.numel()
    assert found.energy == pytest.approx(float(steps.square().sum()), rel=1e-6)
    assert found.fourth == pytest.approx(float(steps.square().square().sum()), rel=1e-6)
    for field in (100, 110, 113, 116):
        power = 2.0 ** (field - 127)
        exact = int((steps.abs() == power).sum())
        inside = int(((steps.abs() > power) & (steps.abs() < 2 * power)).sum())
        assert found.counts[field].tolist() == [exact, inside]


def test_float32_shows_its_steps_unrounded(W: torch.Tensor) -> None:
    current = (W + 1e-6).float()
    found = visibility.open_steps(W.to(like.BF16), current, 100)
    own = (current.double() - W)[W.abs() < 2.0 ** (100 - 126)]
    assert found.energy == pytest.approx(float(own.square().sum()), rel=1e-6)


def test_no_gate_open_and_every_gate_open(W: torch.Tensor) -> None:
    code = torch.zeros(W.shape, dtype=torch.int32)
    assert visibility.open_limit(like.counted(W, W, code)) is None
    everything = like.counted(W, W + 1, code)
    limit = visibility.open_limit(everything)
    counts = everything.sum((1, 2))
    assert limit == int((counts >= 100).nonzero().max())
    steps = visibility.open_steps(W.to(like.BF16), (W + 1).to(like.BF16), 255)
    magnitudes = like.magnitudes(W, code)
    assert visibility.gate_consistency(everything, magnitudes, steps) is None
    none = visibility.open_steps(W.to(like.BF16), W.to(like.BF16), 1)
    assert visibility.gate_consistency(like.counted(W, W, code), magnitudes, none) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    a = torch.zeros(shape, dtype=like.BF16)
    found = visibility.open_steps(a, a + 1, 255)
    assert found.counts[127, 0] == a.numel()
    assert found.energy == a.numel()


def test_the_null_follows_the_masters() -> None:
    assert visibility.gate_regime(torch.float32) == "final_cast"
    assert visibility.gate_regime(torch.bfloat16) == "per_step"
    assert visibility.gate_regime(torch.float32, stochastic_rounding=True) == "per_step"
    assert visibility.gate_regime(None) == "unknown"
