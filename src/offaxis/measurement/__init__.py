"""Measurement: which matrices, which steps, at what cost; then one row for every number."""

from offaxis.measurement.options import Options, Pass, every_name
from offaxis.measurement.run import measure
from offaxis.measurement.study import measure_runs

__all__ = ["Options", "Pass", "every_name", "measure", "measure_runs"]
