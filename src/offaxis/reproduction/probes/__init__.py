"""What an entry asks of finished runs beside their measurement: each probe is a file."""

from offaxis.reproduction.probes.agreement import AGREEMENT
from offaxis.reproduction.probes.base import Probe, Row
from offaxis.reproduction.probes.edited import EDITED
from offaxis.reproduction.probes.mechanism import MECHANISM

PROBES = {probe.name: probe for probe in (MECHANISM, AGREEMENT, EDITED)}
"""Every probe, by name."""

__all__ = ["PROBES", "Probe", "Row"]
