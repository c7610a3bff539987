"""Time the elementwise pass and the exact masks, as ratios inside one run on one thread.

python benchmarks/elementwise.py
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.linalg.elementwise import count, magnitude_table, strata_of
from offaxis.linalg.masks import mask_codes

SHAPE = (4096, 4096)
ALPHA = 0.3
REPEATS = 11
STEPS = {"RL-like, 17 % changed": 1.5e-5, "SFT-like, 72 % changed": 1.2e-4}


class Line(NamedTuple):
    """One comparison: seconds of what, against seconds of what else, pair by pair."""

    what: str
    against: str
    shape: str
    seconds: float
    ratio_median: float
    ratio_min: float
    ratio_max: float


def compare(what: str, against: str, *work: Callable[[], object], repeats: int = REPEATS) -> Line:
    times: list[list[float]] = []
    for _ in range(repeats + 1):
        row = []
        for each in work:
            begun = time.process_time()
            each()
            row.append(time.process_time() - begun)
        times.append(row)
    ratios = [first / second for first, second in times[1:]]
    return Line(
        what,
        against,
        f"{SHAPE[0]} x {SHAPE[1]}",
        statistics.median(first for first, _ in times[1:]),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def weights(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bf16 anchor and the magnitude of a reconstruction of it."""
    return (0.02 * torch.randn(SHAPE, generator=g)).bfloat16(), torch.rand(SHAPE, generator=g)


def pass_lines() -> list[Line]:
    g = torch.Generator().manual_seed(0)
    anchor, score = weights(g)
    codes = mask_codes(anchor, score, ALPHA).codes
    strata = strata_of(magnitude_table(anchor, codes))
    found = []
    for name, step in STEPS.items():
        current = (anchor.float() + step * torch.randn(SHAPE, generator=g)).bfloat16()
        pair = torch.stack([anchor, current]).view(torch.uint8).numpy()
        place = pair.copy()
        found.append(
            compare(
                f"fused elementwise pass, {name}",
                "memcpy of the same bytes",
                partial(count, anchor, current, codes, 1e-3, strata=strata),
                partial(place.__setitem__, slice(None), pair),
            )
        )
    return found


def mask_lines() -> list[Line]:
    anchor, score = weights(torch.Generator().manual_seed(0))
    magnitude = anchor.abs().flatten()
    rank = round(ALPHA * magnitude.numel())
    found = []
    for name, flat, one in (
        ("bf16", magnitude, anchor.abs()),
        ("float32", score.flatten(), score),
    ):
        work = (
            lambda W=one: mask_codes(W, W, ALPHA),
            lambda W=flat: (W.kthvalue(rank), W.kthvalue(W.numel() - rank + 1)),
        )
        what, against = f"exact masks, top and bottom, {name}", "torch.kthvalue of both"
        found.append(compare(what, against, *work, repeats=3))
    return found


def lines() -> list[Line]:
    return [*pass_lines(), *mask_lines()]


def main() -> None:
    torch.set_num_threads(1)
    for line in lines():
        print(
            f"{line.what} / {line.against}, {line.shape}: {line.seconds:.4f} CPU s, ratio "
            f"{line.ratio_median:.3f} ({line.ratio_min:.3f} - {line.ratio_max:.3f})"
        )


if __name__ == "__main__":
    main()
