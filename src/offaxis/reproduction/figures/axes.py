"""The axis of the values: room for what is measured, not for what lies far off it."""

import math
from collections.abc import Sequence

from offaxis.report.charts import log_ticks
from offaxis.report.quantities import number
from offaxis.reproduction.figures.figure import Row, Spec
from offaxis.reproduction.figures.looks import Shown

REACH = 2.0
"""Spans of the means by which a null may lie beyond them and still be on the axis."""

_DECADES = 1.5  # as much on a logarithmic axis at least, where the means span less


def value_axis(rows: Sequence[Row], said: Shown, *, reach: float = REACH) -> tuple[Spec, str]:
    """The axis of the values, and what lies beyond it, in words.

    It has room for all means, for their intervals as far as half the means' span goes, and for
    nulls and published numbers no more than `reach` spans off, lest they squeeze the curves.
    """
    up: Spec = {"field": "value", "type": "quantitative", "title": said.axis}
    means = [row["value"] for row in rows if row["kind"] == "ours"]
    if not means:
        return up, ""
    to, back = (math.log10, lambda x: 10.0**x) if said.log else (float, float)
    low, high = to(min(means)), to(max(means))
    span = max(high - low, 0.1 if said.log else 0.1 * abs(high), 1e-12)
    room = max(reach * span, _DECADES) if said.log else reach * span
    held, beyond = [low, high], dict[str, list[float]]()
    for row in rows:
        if row["kind"] == "ours":
            ends = [row[key] for key in ("lo", "hi") if row.get(key) and (row[key] > 0)]
            held += [min(max(to(end), low - span / 2), high + span / 2) for end in ends]
        elif low - room <= to(row["value"]) <= high + room:
            held.append(to(row["value"]))
        else:
            beyond.setdefault(row["kind"], []).append(row["value"])
    pad = 0.04 * max(max(held) - min(held), span)
    domain = [back(min(held) - pad), back(max(held) + pad)]
    up["scale"] = {"type": "log" if said.log else "linear", "domain": domain, "nice": False}
    up["axis"] = {"values": log_ticks(*domain), "format": "~g"} if said.log else {"tickCount": 5}
    return up, "; ".join(f"{kind} off the axis: {_ends(found)}" for kind, found in beyond.items())


def _ends(found: Sequence[float]) -> str:
    low, high = number(min(found)), number(max(found))
    return low if low == high else f"{low} to {high}"
