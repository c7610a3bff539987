"""Masks that hold an exact fraction of a matrix, ties shared out."""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped, UInt8
from torch import Tensor

from offaxis.linalg import elementwise

PRINCIPAL, LOW = 1, 4  # inside a mask; twice that at its threshold

Rows = Callable[[int, int], Tensor]

_BLOCK = 1 << 20  # entries of one block of rows
_DIGIT = 16  # bits of one histogram
_FEW = 1 << 18  # entries of one bin that are sorted out in memory
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class MaskCodes(NamedTuple):
    """Both masks of an anchor, one byte to an entry.

    Attributes:
        codes: The sum of 1 inside the principal mask, 2 tied at its threshold, 4 inside the
            low-magnitude mask, 8 tied at its threshold.
        principal: The weight in [0, 1] that an entry of each code has in the principal mask: 1
            inside, what is left shared out on the threshold, 0 elsewhere; the weights of all
            entries sum to alpha*m*n.
        low_magnitude: Likewise for the low-magnitude mask.
    """

    codes: UInt8[Tensor, "m n"]
    principal: Float64[Tensor, "16"]
    low_magnitude: Float64[Tensor, "16"]


def mask_codes(
    anchor: Float[Tensor, "m n"],
    principal_score: Float[Tensor, "m n"] | Rows,
    alpha: float,
    *,
    kernel: elementwise.Kernel = "compiled",
) -> MaskCodes:
    r"""Mark the `alpha` share of largest principal score, and that of smallest magnitude.

    Thresholds are exact order statistics, found by histograms of the bits: those of non-negative
    floating-point numbers are in the order of the numbers. Above the codes, memory is one block of
    2^20 entries.

    Args:
        anchor: Weights as stored; the low-magnitude mask ranks them by magnitude.
        principal_score: A score >= 0, such as the magnitude of the rank-r reconstruction, float32
            or float64; or a function that returns its rows from a first up to, not including, a
            last one. It is asked for no rows once, for its format, then for every block two times
            or more, and must return the same values each time.
        alpha: The share to select, in [0, 1].
        kernel: As in `elementwise.count`.
    """
    rows = principal_score if callable(principal_score) else _rows_of(principal_score)
    shape = (anchor.shape[0], anchor.shape[1])
    codes = torch.zeros(shape, dtype=torch.uint8, device=anchor.device)
    loops = elementwise.load("selection") if kernel == "compiled" else None
    top = _mark(_Keys(rows, shape, 0, loops), codes, alpha, PRINCIPAL)
    low = _mark(_Keys(_rows_of(anchor), shape, -1, loops), codes, alpha, LOW)
    code = torch.arange(16)
    return MaskCodes(codes, _weights(code & 3, top), _weights(code >> 2, low))


def top_fraction(score: Float64[Tensor, "m n"], alpha: float) -> Float64[Tensor, "m n"]:
    """Return weights in [0, 1] that select the `alpha` share of entries of largest score.

    bf16 weights tie at the threshold; the entries of a tie share what is left, so that the weights
    sum to alpha*m*n whatever the ties.

    Args:
        score: The quantity to rank by.
        alpha: The share to select, in [0, 1].

    Returns:
        1 above the threshold, 0 below, one common fraction on it.
    """
    wanted = alpha * score.numel()
    rank = min(max(math.ceil(wanted), 1), score.numel())
    threshold = score.flatten().kthvalue(score.numel() - rank + 1).values
    above, tied = score > threshold, score == threshold
    share = (wanted - int(above.sum())) / int(tied.sum())
    return above.double() + share * tied.double()


def _rows_of(W: Float[Tensor, "m n"]) -> Rows:
    return lambda first, last: W[first:last]


def _weights(state: Int64[Tensor, "16"], share: float) -> Float64[Tensor, "16"]:
    """1 inside (state 1), the share at the threshold (state 2), 0 elsewhere."""
    return (state == 1).double() + share * (state == 2).double()


class _Bin(NamedTuple):
    """The keys that start with `prefix`, `shift` bits short of whole; the wanted one is here."""

    prefix: int
    shift: int
    above: int
    entries: int


class _Keys(NamedTuple):
    """The magnitudes of a matrix as integers in their order (flip -1: in falling order)."""

    rows: Rows
    shape: tuple[int, int]
    flip: int
    loops: ModuleType | None

    def bits(self) -> int:
        return 8 * self.rows(0, 0).element_size() - 1

    def blocks(self) -> Iterator[tuple[slice, Shaped[Tensor, " entries"]]]:
        """Yield the place of a block and the bits of its values."""
        height = max(_BLOCK // max(self.shape[1], 1), 1)
        for first in range(0, self.shape[0], height):
            place = slice(first, min(first + height, self.shape[0]))
            values = self.rows(place.start, place.stop).contiguous().flatten()
            yield place, values.view(_INTEGERS[values.element_size()])

    def of(self, bits: Shaped[Tensor, " entries"]) -> Shaped[Tensor, " entries"]:
        return (bits ^ self.flip) & torch.iinfo(bits.dtype).max

    def histogram(self, shift: int, width: int, prefix: int) -> Int64[Tensor, " bins"]:
        """Count the `width` bits above `shift` of the keys whose bits before them are `prefix`."""
        bins = torch.zeros(1 << width, dtype=torch.int64)
        counts_all = shift + width == self.bits()
        for _, bits in self.blocks():
            if self.loops is None or bits.device.type != "cpu":
                digits = self.of(bits).long() >> shift
                digits = digits[digits >> width == prefix] & (1 << width) - 1
                bins += torch.bincount(digits, minlength=1 << width).cpu()
            elif counts_all:
                held = bits.numpy()
                words = held[: held.size - held.size % (8 // held.itemsize)].view(np.uint64)
                self.loops.count_digits(held, words, self.flip, shift, bins.numpy())
            else:
                self.loops.count_within(bits.numpy(), self.flip, shift, width, prefix, bins.numpy())
        return bins

    def mark(
        self,
        bits: Shaped[Tensor, " entries"],
        found: _Bin,
        inside: int,
        codes: UInt8[Tensor, " entries"],
    ) -> tuple[Int64[Tensor, " few"], Shaped[Tensor, " few"]]:
        """Add `inside` above the bin; mark ties if it is whole, else return its places and keys."""
        whole = found.shift == 0
        if self.loops is not None and bits.device.type == "cpu":
            index = torch.empty(0 if whole else found.entries, dtype=torch.int64)
            held = torch.empty(index.shape, dtype=bits.dtype)
            first = found.prefix << found.shift
            last = first + (1 << found.shift) - 1
            rule = torch.tensor([self.flip, torch.iinfo(bits.dtype).max, first, last]).to(bits)
            marks = inside, 2 * inside * whole
            room = codes.numpy(), index.numpy(), held.numpy()
            few = self.loops.mark(bits.numpy(), rule.numpy(), *marks, *room)
            return index[:few], self.of(held[:few])
        digits = self.of(bits) >> found.shift
        codes += (digits > found.prefix).to(torch.uint8) * inside
        within = digits == found.prefix
        if whole:
            codes += within.to(torch.uint8) * (2 * inside)
            within = within[:0]
        index = within.nonzero()[:, 0]
        return index, self.of(bits[index])


def _narrow(keys: _Keys, rank: int) -> _Bin:
    """Follow the key of the given rank from the top through histograms, digit by digit."""
    found = _Bin(0, keys.bits(), 0, keys.shape[0] * keys.shape[1])
    while found.shift > 0 and found.entries > _FEW:
        width = min(_DIGIT, found.shift)
        shift = found.shift - width
        bins = keys.histogram(shift, width, found.prefix)
        from_top = bins.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_top, rank - found.above))
        entries = int(bins.flip(0)[place])
        above = found.above + int(from_top[place]) - entries
        digit = (1 << width) - 1 - place
        found = _Bin(found.prefix << width | digit, shift, above, entries)
    return found


def _mark(keys: _Keys, codes: UInt8[Tensor, "m n"], alpha: float, inside: int) -> float:
    """Add `inside` to the codes of the largest keys, twice that to ties; return the ties' share."""
    wanted = alpha * codes.numel()
    rank = min(max(math.ceil(wanted), 1), codes.numel())
    found = _narrow(keys, rank)
    flat, width = codes.view(-1), codes.shape[1]
    places, keys_left = [], []
    for place, block in keys.blocks():
        part = flat[place.start * width : place.stop * width]
        index, within = keys.mark(block, found, inside, part)
        places.append(index + place.start * width)
        keys_left.append(within)
    if found.shift == 0:
        return (wanted - found.above) / found.entries
    left = torch.cat(keys_left)
    threshold = left.kthvalue(left.numel() - (rank - found.above) + 1).values
    above, tied = left > threshold, left == threshold
    flat[torch.cat(places)] += inside * above.to(torch.uint8) + 2 * inside * tied.to(torch.uint8)
    return (wanted - found.above - int(above.sum())) / int(tied.sum())
