"""What the fast tier says of itself when it has measured: its validity, and what it left."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from offaxis.linalg.shift import VALID
from offaxis.table import ResultsFolder

_LEFT = {"spectral_shift": "spectral shifts", "left_mean": "rotations"}


def describe_fast(results: ResultsFolder, runs: Sequence[str]) -> str:
    """Return the validity number of these runs' matrices and how many the exact tier took.

    Source:
        The validity: see `offaxis.linalg.shift`.
    """
    readings = results.read("readings", runs)
    validity = _of(readings, "validity", "value").drop_null()
    lines = []
    if len(validity):
        middle, largest = pc.quantile(validity, [0.5, 1.0]).to_pylist()
        lines.append(
            f"fast tier: validity {middle:.2g} (median), {largest:.2g} (largest); the shift is "
            f"trusted up to {VALID:g}"
        )
    for quantity, named in _LEFT.items():
        methods = _of(readings, quantity, "method").to_pylist()
        if methods:
            lines.append(f"  {methods.count('exact')} of {len(methods)} {named} taken exactly")
    return "\n".join(lines)


def _of(readings: pa.Table, quantity: str, column: str) -> pa.Array:
    """A column of the rows of one quantity."""
    rows = readings.filter(pc.equal(readings["quantity"], quantity))
    return rows[column].combine_chunks()
