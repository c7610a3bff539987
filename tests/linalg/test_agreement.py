"""Agreement of masks: against sets of coordinates, and against masks placed at random."""

from itertools import combinations

import numpy as np
import pytest
import torch

from offaxis.linalg import agreement


def anchor(seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (0.05 * torch.randn(20, 30, generator=g)).bfloat16()


def gated(W: torch.Tensor, g: torch.Generator, base: float) -> torch.Tensor:
    """A mask that prefers small weights by their binade and nothing else."""
    exponent = (W.view(torch.int16).long() >> 7 & 0xFF).double()
    chance = base * (exponent.max() + 1 - exponent) / 6
    return torch.rand(W.shape, generator=g, dtype=torch.float64) < chance.clamp(max=0.95)


def test_overlaps_are_those_of_sets() -> None:
    g = torch.Generator().manual_seed(1)
    W = anchor()
    masks = [torch.rand(20, 30, generator=g) < p for p in (0.2, 0.5, 0.8)]
    sets = [{*map(tuple, mask.nonzero().tolist())} for mask in masks]
    hits = agreement.hits_of([W], masks)
    for a, b in combinations(range(3), 2):
        A, B = sets[a], sets[b]
        assert agreement.jaccard(hits, a, b) == len(A & B) / len(A | B)
        assert agreement.coverage(hits, a, b) == len(A & B) / len(A)
        p, q = len(A) / 600, len(B) / 600
        assert agreement.independent_jaccard(hits, a, b) == pytest.approx(p * q / (p + q - p * q))
    times = sum(mask.long() for mask in masks).flatten().tolist()
    wanted = [times.count(t) / 600 for t in range(4)]
    assert agreement.consensus(hits).tolist() == pytest.approx(wanted)


def test_the_gate_alone_makes_masks_agree_as_much_as_its_null_says() -> None:
    g = torch.Generator().manual_seed(2)
    W = anchor()
    away, laws, seen = [], [], []
    for _ in range(150):
        masks = [gated(W, g, base) for base in (0.3, 0.6, 0.9)]
        hits = agreement.hits_of([W], masks)
        found = agreement.gated_jaccard(hits, 0, 1)
        away.append((agreement.jaccard(hits, 0, 1) - found.mean) / found.sd)
        cover = agreement.gated_coverage(hits, 2, 0)
        away.append((agreement.coverage(hits, 2, 0) - cover.mean) / cover.sd)
        assert found.mean > agreement.independent_jaccard(hits, 0, 1)
        laws.append(agreement.gated_consensus(hits))
        seen.append(agreement.consensus(hits))
    assert abs(np.mean(away)) < 4.5 / 300**0.5
    assert np.std(away) == pytest.approx(1, abs=0.15)
    torch.testing.assert_close(
        torch.stack(seen).mean(0), torch.stack(laws).mean(0), rtol=0, atol=0.006
    )


def test_consensus_of_independent_masks_is_the_product_of_their_densities() -> None:
    g = torch.Generator().manual_seed(3)
    W = anchor()
    masks = [torch.rand(20, 30, generator=g) < 0.5 for _ in range(2)]
    hits = agreement.hits_of([W], masks)
    p, q = (float(mask.double().mean()) for mask in masks)
    law = agreement.independent_consensus(hits).tolist()
    assert law == pytest.approx([(1 - p) * (1 - q), p + q - 2 * p * q, p * q])
    assert sum(agreement.gated_consensus(hits).tolist()) == pytest.approx(1)


def test_masks_of_two_anchors_agree_by_the_binades_of_both() -> None:
    g = torch.Generator().manual_seed(4)
    V, W = anchor(0), anchor(1)
    away = []
    for _ in range(150):
        hits = agreement.hits_of([V, W], [gated(V, g, 0.5), gated(W, g, 0.7)])
        found = agreement.gated_jaccard(hits, 0, 1)
        away.append((agreement.jaccard(hits, 0, 1) - found.mean) / found.sd)
    assert abs(np.mean(away)) < 4.5 / 150**0.5


def test_masks_without_changes_have_no_overlap() -> None:
    nothing = torch.zeros(20, 30, dtype=torch.bool)
    hits = agreement.hits_of([anchor()], [nothing, ~nothing])
    assert agreement.coverage(hits, 0, 1) is None
    assert agreement.jaccard(hits, 0, 1) == 0
    assert agreement.jaccard(hits, 0, 0) is None
    assert agreement.gated_jaccard(hits, 0, 0) is None
    assert agreement.gated_jaccard(hits, 0, 1) == (0, 0)
