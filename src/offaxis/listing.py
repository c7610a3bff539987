"""What there is to choose from: diagnostics, objectives, tasks, recipes."""

from typing import Any

from offaxis.diagnostics import similarity
from offaxis.measurement.options import diagnostics


def listing() -> dict[str, Any]:
    """Every plug-in that was found, with what it measures and where its definition stands."""
    found: dict[str, Any] = {
        f"diagnostic {item.name}": f"{', '.join(item.units)} ({item.source})"
        for item in diagnostics().values()
    }
    found[f"diagnostic {similarity.NAME}"] = f"{', '.join(similarity.UNITS)} ({similarity.SOURCE})"
    return found
