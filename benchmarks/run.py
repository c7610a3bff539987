"""Time what users wait for and measure what it holds, as ratios inside one run on one thread.

    python benchmarks/run.py [--large] [SUBJECT ...]

Prints a table and writes it as Parquet and Markdown under benchmarks/results/. `--large` repeats
4096 x 4096 as often as 1024 x 4096, and measures the memory of 12288 x 4096.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import elementwise
import loss
import memory
import parallel
import tiers
from offaxis.workers import WORKER, worker_pool
from rows import Row, markdown, row

RESULTS = Path(__file__).parent / "results"

WIDE, SQUARE = (1024, 4096), (4096, 4096)

_ELEMENTWISE = {"memcpy of the same bytes": "<= 1.5", "torch.kthvalue of both": "<= 0.1"}


def elementwise_rows() -> list[Row]:
    return [
        row(
            line.what,
            line.against,
            line.shape,
            [line.ratio_min, line.ratio_median, line.ratio_max],
            _ELEMENTWISE[line.against],
            seconds=[line.seconds],
        )
        for line in elementwise.lines()
    ]


Subject = Callable[..., list[Row]]


def subjects(*, large: bool) -> Mapping[str, list[tuple[Subject, tuple[object, ...]]]]:
    """By name, the functions that give its rows, each called in a process of one thread."""
    repeats = 3 if large else 1
    shapes = [(3072, 1024), *([(12288, 4096)] if large else [])]
    return {
        "tiers": [(tiers.speed, (WIDE, 3)), (tiers.speed, (SQUARE, repeats))],
        "largest": [(tiers.largest_value, (SQUARE, repeats))],
        "elementwise": [(elementwise_rows, ())],
        "memory": [*((memory.of_one_matrix, (shape,)) for shape in shapes), (memory.flatness, ())],
        "loss": [(loss.of_whole_vocabulary, (width,)) for width in (1024, 128)],
        "parallel": [(parallel.speed_up, ())],
    }


def measured(function: Subject, arguments: tuple[object, ...]) -> list[Row]:
    """Rows taken in a fresh process of one thread."""
    with worker_pool(1, torch.set_num_threads, 1, environment=WORKER) as pool:
        return pool.submit(function, *arguments).result()


def rows(chosen: Mapping[str, list[tuple[Subject, tuple[object, ...]]]]) -> Iterator[Row]:
    for work in chosen.values():
        for function, arguments in work:
            yield from measured(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("subjects", nargs="*", help=", ".join(subjects(large=False)))
    given = parser.parse_args()
    every = subjects(large=given.large)
    if not every.keys() >= set(given.subjects):
        parser.error(f"no subject {', '.join(set(given.subjects) - every.keys())}")
    found = []
    for each in rows({name: every[name] for name in given.subjects or every}):
        print(markdown([each]).splitlines()[-1], flush=True)
        found.append(each)
    RESULTS.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([r.as_dict() for r in found]), RESULTS / "bench.parquet")
    (RESULTS / "bench.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
