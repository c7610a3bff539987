"""Which tokens are kept, against a loop over samples."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.objectives.selection import kept, selection_weights


def drawn(seed, rows=5, width=9):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 4, (rows, width), generator=generator).float()
    mask = torch.rand(rows, width, generator=generator) < 0.6
    mask[0] = False
    return scores, mask


def by_loop(scores, mask, numerator, denominator):
    found = torch.zeros_like(mask)
    for b in range(len(mask)):
        places = [t for t in range(mask.shape[1]) if mask[b, t]]
        places.sort(key=lambda t: (-float(scores[b, t]), t))
        for t in places[: -(-len(places) * numerator // denominator)]:
            found[b, t] = True
    return found


@given(st.integers(0, 2**16), st.integers(1, 20))
def test_the_highest_of_every_sample_are_kept_and_of_ties_the_earlier(seed, numerator):
    scores, mask = drawn(seed)
    found = kept(scores, mask, numerator / 20)
    assert torch.equal(found, by_loop(scores, mask, numerator, 20))


def test_infinite_and_missing_scores_never_bring_in_a_token_off_the_mask():
    mask = torch.tensor([[False, True, True, False, True]])
    scores = torch.tensor([[9.0, -math.inf, math.nan, 9.0, 0.0]])
    assert kept(scores, mask, 1.0).equal(mask)
    assert kept(scores, mask, 0.3).tolist() == [[False, False, False, False, True]]


def test_compensation_gives_every_sample_its_weight_back():
    scores, mask = drawn(3)
    some = kept(scores, mask, 0.25)
    plain = selection_weights(some, mask, compensate=False)
    assert plain.equal(some.float())
    scaled = selection_weights(some, mask, compensate=True)
    torch.testing.assert_close(scaled.sum(1), mask.sum(1).float())
    assert scaled[~some].eq(0).all()
