"""Time what users wait for, as ratios inside one run on one thread.

    make bench

Prints a table and writes it as Parquet and Markdown under benchmarks/results/.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from offaxis.measurement.evaluate import Draws, evaluate
from torch import Tensor

from offaxis.diagnostics.base import Matrix, WeightUpdate
from offaxis.linalg.spectra import exact_svd, gram_svd
from offaxis.measurement.options import diagnostics

SHAPES = ((128, 384), (256, 1024), (512, 2048))
REPEATS = 5
RESULTS = Path(__file__).parent / "results"


class Line(NamedTuple):
    """One comparison: seconds of what, against seconds of what else, pair by pair."""

    what: str
    against: str
    shape: str
    seconds: float
    ratio_median: float
    ratio_min: float
    ratio_max: float


def pair(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """An anchor and a checkpoint on the bf16 grid, the update of low rank plus noise."""
    g = torch.Generator().manual_seed(0)
    W0 = 0.02 * torch.randn(shape, generator=g)
    low = torch.randn(shape[0], 16, generator=g) @ torch.randn(16, shape[1], generator=g)
    W1 = W0 + 1e-4 * (low / 4 + torch.randn(shape, generator=g))
    return W0.bfloat16().double(), W1.bfloat16().double()


def readings(W0: Matrix, W1: Tensor, draws: int) -> Callable[[], object]:
    """Every reading of one checkpoint of one matrix, the anchor prepared; nulls where drawn."""
    every = list(diagnostics().values())

    def work() -> object:
        update = WeightUpdate(W0, Matrix(W1), Matrix(W1 - W0.W), torch.bfloat16)
        return evaluate(update, every, {}, Draws(draws, draws, "bench"))

    return work


def script(W0: Tensor, W1: Tensor) -> Callable[[], object]:
    """What scripts in use run for each matrix: two float32 SVDs and the values of the delta."""

    def work() -> object:
        a, b = W0.float(), W1.float()
        return (
            torch.linalg.svd(a, full_matrices=False),
            torch.linalg.svd(b, full_matrices=False),
            torch.linalg.svdvals(b - a),
        )

    return work


def compare(what: str, against: str, shape: tuple[int, int], *work: Callable[[], object]) -> Line:
    times: list[tuple[float, ...]] = []
    for _ in range(REPEATS + 1):
        pair_of_times = []
        for each in work:
            begun = time.process_time()
            each()
            pair_of_times.append(time.process_time() - begun)
        times.append(tuple(pair_of_times))
    ratios = [first / second for first, second in times[1:]]
    return Line(
        what,
        against,
        f"{shape[0]} x {shape[1]}",
        statistics.median(first for first, _ in times[1:]),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def lines() -> list[Line]:
    found = []
    usual = "two float32 SVDs and one svdvals"
    for shape in SHAPES:
        W0, W1 = pair(shape)
        anchor = Matrix(W0)
        anchor.factors  # noqa: B018 - prepared once, as in a measurement
        alone, nulls = readings(anchor, W1, 0), readings(anchor, W1, 3)
        alone()
        found.append(compare("all readings", usual, shape, alone, script(W0, W1)))
        found.append(compare("all readings with nulls", usual, shape, nulls, script(W0, W1)))
        found.append(
            compare(
                "SVD by float64 Gram",
                "SVD by float64 LAPACK",
                shape,
                lambda W=W1: gram_svd(W),
                lambda W=W1: exact_svd(W),
            )
        )
    return found


def main() -> None:
    torch.set_num_threads(1)
    found = lines()
    head = "| what | against | shape | CPU s | ratio, median | min - max |"
    table = [head, "|---|---|---|---|---|---|"] + [
        f"| {x.what} | {x.against} | {x.shape} | {x.seconds:.4f} | {x.ratio_median:.2f} "
        f"| {x.ratio_min:.2f} - {x.ratio_max:.2f} |"
        for x in found
    ]
    RESULTS.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([x._asdict() for x in found]), RESULTS / "bench.parquet")
    (RESULTS / "bench.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))


if __name__ == "__main__":
    main()
