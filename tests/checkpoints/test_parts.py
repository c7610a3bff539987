"""A tensor joined from parts is the tensor that was cut, or an error."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.checkpoints.parts import Part, joined, require_whole
from offaxis.errors import CheckpointError


def cut(W: torch.Tensor, counts: tuple[int, ...]) -> list[Part]:
    """A grid of parts, the last of each axis smaller or empty."""
    axes = []
    for length, count in zip(W.shape, counts, strict=True):
        step = -(-length // count)
        begins = [min(at * step, length) for at in range(count)]
        axes.append([(b, min(step, length - b)) for b in begins if b < length])
    parts = []
    for box in product(*axes):
        offsets, sizes = tuple(b for b, _ in box), tuple(n for _, n in box)
        held = W[tuple(slice(b, b + n) for b, n in box)].clone()
        parts.append(Part(offsets, sizes, lambda held=held: held))
    return parts


@given(
    shape=st.lists(st.integers(1, 6), max_size=3),
    counts=st.tuples(*[st.integers(1, 4)] * 3),
    shuffle=st.randoms(use_true_random=False),
)
def test_parts_in_any_order_make_the_whole(shape, counts, shuffle) -> None:
    W = torch.randn(shape)
    parts = cut(W, counts[: len(shape)])
    shuffle.shuffle(parts)
    require_whole("W", tuple(shape), parts)
    assert torch.equal(joined("W", tuple(shape), W.dtype, parts), W)
    for index in range(shape[0]) if shape else ():
        assert torch.equal(joined("W", tuple(shape), W.dtype, parts, index), W[index])


def test_only_what_an_entry_touches_is_read() -> None:
    def unread() -> torch.Tensor:
        raise AssertionError("a part of another entry has been read")

    first, *others = cut(torch.arange(12.0).view(4, 3), (4, 1))
    parts = [first, *(part._replace(load=unread) for part in others)]
    assert joined("W", (4, 3), torch.float32, parts, 0).tolist() == [0.0, 1.0, 2.0]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    W = torch.randn(4, 3)
    first, second = cut(W, (2, 1))
    for parts in ([first], [first, second, second], [first, first]):
        with pytest.raises(CheckpointError, match="make up"):
            require_whole("W", (4, 3), parts)
    for wrong in ((3, 0), (-1, 0), (0,)):
        with pytest.raises(CheckpointError, match="within"):
            require_whole("W", (4, 3), [first, second._replace(offsets=wrong)])
    for loaded in (W, W[:2].double()):
        with pytest.raises(CheckpointError, match="a part of shape"):
            joined("W", (4, 3), W.dtype, [first._replace(load=lambda held=loaded: held)])
