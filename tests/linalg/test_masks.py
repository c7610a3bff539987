"""Masks hold exactly the share that was asked for."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg.masks import bottom_fraction, top_fraction


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
def test_weights_sum_to_the_share_and_follow_the_order(values: list[int], alpha: float) -> None:
    score = torch.tensor([values], dtype=torch.float64)
    mask = top_fraction(score, alpha)
    assert abs(float(mask.sum()) - alpha * len(values)) < 1e-9
    assert float(mask.min()) >= 0
    assert float(mask.max()) <= 1 + 1e-12
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            if a > b:
                assert mask[0, i] >= mask[0, j]
            if a == b:
                assert mask[0, i] == mask[0, j]


def test_without_ties_it_is_the_ordinary_mask() -> None:
    score = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0]], dtype=torch.float64)
    assert top_fraction(score, 0.4).tolist() == [[1, 0, 1, 0, 0]]
    assert bottom_fraction(score, 0.4).tolist() == [[0, 1, 0, 1, 0]]
