"""The gradients of OPD at its early checkpoint: their second moments, and the bounds of theorems.

Every condition is an arm of the rows, beside the run's own.
"""

from collections.abc import Sequence
from pathlib import Path

from offaxis.mechanism import Choice, mechanism_of
from offaxis.mechanism.conditions import arms_of
from offaxis.reproduction.probes.base import Probe, Row, Runs

_CHOICE = Choice()


def _ask(runs: Runs, out: Path) -> Sequence[Row]:
    (run,) = runs.values()
    return [row | {"point": "early"} for row in mechanism_of(run, out, _CHOICE)]


MECHANISM = Probe("mechanism", 1, (("opd",),), arms_of(_CHOICE), _ask, seconds=100.0)
