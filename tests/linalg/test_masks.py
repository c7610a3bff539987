"""Masks hold exactly the share that was asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg import masks
from offaxis.linalg.masks import MaskCodes, mask_codes, top_fraction


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


def judged(found: MaskCodes, anchor: torch.Tensor, score: torch.Tensor, alpha: float) -> None:
    code = found.codes.long()
    assert torch.equal(found.principal[code], top_fraction(score.double(), alpha))
    assert torch.equal(found.low_magnitude[code], top_fraction(-anchor.double().abs(), alpha))
    assert not bool(((code & 3 == 3) | (code & 12 == 12)).any())


@pytest.mark.parametrize("few", [0, 2000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("length", [4096, 9001])
def test_loops_in_parts_mark_what_the_plain_form_marks(dtype, length, few, monkeypatch) -> None:
    monkeypatch.setattr(masks, "_FEW", few)
    g = torch.Generator().manual_seed(length)
    anchor = torch.randn(3, length, generator=g, dtype=torch.float64).to(dtype)
    score = torch.rand(3, length, generator=g, dtype=torch.float64).to(dtype)
    for alpha in (0.0, 1e-4, 0.3, 1.0):
        plain = mask_codes(anchor, score, alpha, kernel="plain")
        found = mask_codes(anchor, score, alpha, kernel="compiled")
        assert torch.equal(found.codes, plain.codes)
        assert found.principal.tolist() == plain.principal.tolist()
        assert found.low_magnitude.tolist() == plain.low_magnitude.tolist()


magnitudes = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1 + 2**-20, 1 + 2**-40, 2.0**-133, 3e38])


@given(
    st.lists(st.tuples(magnitudes, magnitudes), min_size=1, max_size=40),
    st.tuples(
        st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
        st.sampled_from([torch.float32, torch.float64]),
    ),
    st.floats(0.0, 1.0),
    st.sampled_from([0, 5, 1000]),
)
@pytest.mark.parametrize("kernel", ["compiled", "plain"])
def test_codes_are_the_weights_of_both_masks(kernel, pairs, formats, alpha, few) -> None:
    """By histograms to the last bit (few = 0), by one bin's order, or by order alone."""
    anchor = torch.tensor([[x for x, _ in pairs]], dtype=torch.float64).to(formats[0])
    score = torch.tensor([[y for _, y in pairs]], dtype=torch.float64).abs().to(formats[1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(masks, "_FEW", few)
        found = mask_codes(anchor, score, alpha, kernel=kernel)
    judged(found, anchor, score, alpha)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (37, 53)])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_may_come_in_blocks(shape, stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_BLOCK", 100)
    monkeypatch.setattr(masks, "_FEW", 20)
    g = torch.Generator().manual_seed(0)
    anchor = (0.02 * torch.randn(shape, generator=g)).to(stored)
    score = torch.randn(shape, generator=g, dtype=torch.float64).abs()
    judged(mask_codes(anchor, lambda i, j: score[i:j].clone(), 0.3), anchor, score, 0.3)
    judged(mask_codes(anchor, torch.zeros_like(score), 0.3), anchor, torch.zeros_like(score), 0.3)
