"""Coarse products are judged by float64 ones, and the compiled loops by the plain ones."""

import pytest
import torch

from offaxis.linalg import coarse
from offaxis.linalg.coarse import COARSE, coarse_product, sliced
from offaxis.linalg.elementwise import load

LOOPS = load("slicing")


def draw(shape: tuple[int, int], kind: str, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(shape, generator=g)
    if kind == "heavy":
        return A * (2 * torch.randn(shape, generator=g)).exp()
    if kind == "few":
        A[:, 0] *= 1e4
    if kind == "steps":  # between bfloat16 values
        A = (1 + 1e-2 * A).bfloat16().float() - 1
    if kind == "scaled":
        A *= 10.0 ** torch.linspace(-12, 12, shape[0])[:, None]
    return A


@pytest.mark.parametrize("kind", ["plain", "heavy", "few", "steps", "scaled"])
@pytest.mark.parametrize("shape", [(64, 900, 130), (1, 1, 1), (3, 700, 1), (1, 600, 300)])
def test_the_error_is_within_what_is_stated(kind: str, shape: tuple[int, int, int]) -> None:
    a, b, c = shape
    A, B = draw((a, b), kind), draw((b, c), "plain", 1)
    truth = A.double() @ B.double()
    expected = float(A.norm() * B.norm()) / b**0.5  # of a product of unrelated factors
    for left, right, judge in ((A, B, truth), (B.T, A.T, truth.T)):
        found = coarse_product(left, right)
        assert float((found - judge).norm()) <= 1.5 * COARSE * max(expected, float(judge.norm()))


@pytest.mark.parametrize("kind", ["plain", "heavy", "steps"])
def test_energy_is_not_biased(kind: str) -> None:
    A, B = draw((700, 900), kind), draw((900, 800), "plain", 1)
    truth = float((A.double() @ B.double()).square().sum())
    assert float(coarse_product(A, B).double().square().sum()) == pytest.approx(truth, rel=1e-3)


def test_steps_between_bfloat16_values_are_exact() -> None:
    A = torch.tensor([[1.0, -0.5, 0.25, 0.0, 1 / 64]]) * 2.0**-12
    assert bool((sliced(A, 1, LOOPS).first * sliced(A, 1, LOOPS).unit == A).all())


@pytest.mark.parametrize("value", [1.3, 1.0 + 1 / 127, 1.99])
def test_entries_of_one_magnitude_keep_their_energy(value: float) -> None:
    """As in the first steps of Adam, whose entries are all of the size of the learning rate."""
    A = value * draw((700, 900), "plain").sign()
    B = draw((900, 800), "plain", 1)
    truth = float((A.double() @ B.double()).square().sum())
    assert float(coarse_product(A, B).double().square().sum()) == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("kind", ["plain", "heavy", "few"])
@pytest.mark.parametrize("shape", [(90, 200), (1, 7), (7, 1)])
@pytest.mark.parametrize("part", [slice(None), slice(3, None)])
def test_compiled_and_plain_loops_agree(kind: str, shape: tuple[int, int], part: slice) -> None:
    A = draw(shape, kind)[:, part if shape[1] > 3 else slice(None)]
    for given in (A, A.T):
        for dim in (0, 1):
            ours, plain = sliced(given, dim, LOOPS), sliced(given, dim, None)
            torch.testing.assert_close(ours.unit, plain.unit, rtol=1e-6, atol=0)
            assert torch.equal(ours.first, plain.first)
            assert (ours.second is None) == (plain.second is None)
            if ours.second is not None and plain.second is not None:
                assert torch.equal(ours.second, plain.second)
    A = draw((90, 600), kind)
    B = draw((A.shape[1], 30), "plain", 1)
    ours, plain = coarse_product(A, B), coarse_product(A, B, loops=None)
    assert float((ours - plain).norm()) <= 1e-6 * float(plain.norm())


def test_lines_of_zeros_stay_zero() -> None:
    A = draw((6, 600), "plain")
    A[2] = 0
    B = torch.zeros(600, 4)
    B[:, 1] = 1
    found = coarse_product(A, B)
    assert not bool(found[2].any())
    assert not bool(found[:, [0, 2, 3]].any())


def test_long_products_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "_DEPTH", 64)
    A, B = torch.ones(3, 1000), torch.ones(1000, 2)
    assert bool((coarse_product(A, B) == 1000).all())


def test_without_byte_products_it_is_a_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "_multiplies_bytes", lambda: False)
    A, B = draw((20, 600), "heavy"), draw((600, 10), "plain", 1)
    assert float((coarse_product(A, B) - A @ B).norm()) <= 1e-5 * float((A @ B).norm())
