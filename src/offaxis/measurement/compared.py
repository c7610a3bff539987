"""What is said of runs that are compared: one number a row, each beside chance and the gate."""

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import combinations
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from offaxis.checkpoints.views import View
from offaxis.linalg import agreement
from offaxis.linalg.agreement import Hits

Row = dict[str, Any]


def rows_of_matrix(view: View, hits: Hits, names: Sequence[str]) -> Iterator[Row]:
    """Jaccard and coverage of each two runs, and the consensus of all."""
    place = {"tensor": view.tensor, "view": view.view, "layer": view.layer, "role": view.role}

    def row(quantity: str, runs: tuple[str, str], value: float | None, **nulls: Any) -> Row:  # noqa: ANN401
        first, second = runs
        told = {"quantity": quantity, "first": first, "second": second, "value": value}
        return {**place, **told, "null": "stratified", **nulls}

    for a, b in combinations(range(len(names)), 2):
        gated = agreement.gated_jaccard(hits, a, b)
        yield row(
            "jaccard",
            (names[a], names[b]),
            agreement.jaccard(hits, a, b),
            **_expected(gated),
            chance=agreement.independent_jaccard(hits, a, b),
        )
        for i, j in ((a, b), (b, a)):
            yield row(
                "coverage",
                (names[i], names[j]),
                agreement.coverage(hits, i, j),
                **_expected(agreement.gated_coverage(hits, i, j)),
                chance=float(hits.changed[j].sum() / hits.entries.sum()),
            )
    laws = (agreement.consensus, agreement.gated_consensus, agreement.independent_consensus)
    for times, (seen, gated, chance) in enumerate(
        zip(*(law(hits).tolist() for law in laws), strict=True)
    ):
        told = {"null_mean": gated, "null_sd": None, "chance": chance}
        yield row("consensus", (f"{times} of {len(names)}", ""), seen, **told)


def _expected(found: agreement.Expected | None) -> dict[str, float | None]:
    mean, sd = found if found is not None else (None, None)
    return {"null_mean": mean, "null_sd": sd}


def rows_of_roles(
    energies: Mapping[str, Tensor], sizes: Mapping[str, int], names: Sequence[str]
) -> Iterator[Row]:
    """The share of each run's energy in the matrices of each role, beside that of the weights."""
    totals = torch.stack(list(energies.values())).sum(0)
    for role, energy in energies.items():
        share = sizes[role] / sum(sizes.values())
        for name, part, whole in zip(names, energy.tolist(), totals.tolist(), strict=True):
            yield {
                "tensor": "",
                "view": "",
                "layer": None,
                "role": role,
                "quantity": "energy_share",
                "first": name,
                "second": "",
                "value": part / whole if whole else None,
                "null": "isotropic",
                "null_mean": share,
                "null_sd": None,
                "chance": share,
            }


def as_table(found: dict[str, Any]) -> str:
    """The rows for people: means over the matrices of a role."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found["rows"]:
        key = (row["quantity"], row["role"], row["first"], row["second"])
        groups.setdefault(key, []).append(row)
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("quantity", "role", "first", "second"):
        table.add_column(title)
    for title in ("value", "by the gate", "by chance", "matrices"):
        table.add_column(title, justify="right")
    for names, rows in sorted(groups.items()):
        numbers = [_mean(rows, name) for name in ("value", "null_mean", "chance")]
        table.add_row(*names, *numbers, str(len(rows)))
    # Wide enough for any table; columns are as wide as what they hold.
    console = Console(file=StringIO(), width=1000, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    steps = [f"{run}: step {step}" for run, step in found["steps"].items()]
    return "\n".join([*(line.rstrip() for line in capture.get().splitlines()), "", *steps])


def _mean(rows: Sequence[Row], name: str) -> str:
    """Four significant digits; a dash where nothing is defined."""
    values = [row[name] for row in rows if row[name] is not None]
    return f"{sum(values) / len(values):.4g}" if values else "-"
