"""What a run still solves once its update is edited, beside the same edit in random directions."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from offaxis.reproduction.probes.base import Probe, Row, Runs
from offaxis.training.evaluation.command import evaluate_command
from offaxis.training.evaluation.edits import with_nulls
from offaxis.training.evaluation.subjects import Choices

_EDITS = (
    *("top=1", "top=1,norm", "top=16", "top=16,norm"),
    "bottom=48,norm",  # none of the sixteen first, whose size it is brought to: of 64 or more
    *("scale=0.5", "scale=2", "extrapolate=1", "spectrum"),
)
_NULL = "random directions"


def _ask(runs: Runs, out: Path) -> Sequence[Row]:
    ((arm, run),) = runs.items()
    last = Choices(steps=(run.steps()[-1],))
    quiet = Console(file=io.StringIO())
    found = evaluate_command([run.root], last, edits=_EDITS, console=quiet)["rows"]
    values = {(row["edit"], row["metric"]): row["value"] for row in found}
    start = (run.manifest() or {}).get("accuracy_start")
    if start is not None:
        values |= gains(values, start)
    return list(_rows(arm, values))


def gains(
    values: Mapping[tuple[str, str], float | None], start: float
) -> dict[tuple[str, str], float]:
    """Of what the run gained, the share that is left; nothing where it gained nothing."""
    whole = values["", "accuracy"]
    if whole is None or whole <= start:
        return {}
    return {
        (edit, "gain_kept"): (value - start) / (whole - start)
        for (edit, metric), value in values.items()
        if metric == "accuracy" and value is not None
    }


def _rows(arm: str, values: Mapping[tuple[str, str], float | None]) -> Iterator[Row]:
    edits = [edit for edit in with_nulls(_EDITS) if edit is not None]
    for edit, null in zip(edits[::2], edits[1::2], strict=True):
        for quantity in sorted({metric for _, metric in values}):
            value = values.get((edit.label, quantity))
            if value is not None:
                yield {
                    "arm": arm,
                    "point": point_of(edit.text),
                    "progress": 1.0,
                    "quantity": quantity,
                    "matrices": "linear",
                    "precision": "stored",
                    "value": value,
                    "null": values.get((null.label, quantity)),
                    "null_name": _NULL,
                }


def point_of(edit: str) -> str:
    """The name of an edited end: `edit=top-16-norm` of `top=16,norm`."""
    return f"edit={edit.replace('=', '-').replace(',', '-')}"


EDITED = Probe("edited", 1, (("opd",), ("sft",), ("rlvr",)), (), _ask, seconds=90.0)
