"""What there is to choose from: diagnostics, objectives, rewards, tasks, recipes."""

from typing import Any

from offaxis.catalog import collect
from offaxis.data.columns import LAYOUTS
from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Diagnostic
from offaxis.objectives.base import Objective
from offaxis.recipe import recipes_folder
from offaxis.rewards.base import Reward
from offaxis.tasks.base import GeneratedTask


def listing() -> dict[str, Any]:
    """Every plug-in that was found, with what it measures or does and where it is defined."""
    diagnostics = {
        item.name: {
            "quantities": list(item.units),
            "source": item.source,
            "is_relative": item.is_relative,
        }
        for item in collect("offaxis.diagnostics", Diagnostic).values()
    }
    diagnostics[similarity.NAME] = {
        "quantities": list(similarity.UNITS),
        "source": similarity.SOURCE,
        "is_relative": False,
    }
    folder = recipes_folder()
    return {
        "diagnostics": diagnostics,
        "objectives": {
            item.name: {"summary": item.summary, "source": item.source}
            for item in collect("offaxis.objectives", Objective).values()
        },
        "rewards": {
            item.name: {"summary": item.summary, "source": item.source}
            for item in collect("offaxis.rewards", Reward).values()
        },
        "tasks": sorted(collect("offaxis.tasks", GeneratedTask)),
        "layouts": sorted(LAYOUTS),
        "recipes": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.toml")),
    }


def as_lines(found: dict[str, Any]) -> dict[str, str]:
    """The listing as one line an entry, for people."""
    kinds = ("diagnostic", "relative")  # the latter are measured where they are named
    return {
        **{
            f"{kinds[item['is_relative']]} {name}": f"{', '.join(item['quantities'])} "
            f"({item['source']})"
            for name, item in found["diagnostics"].items()
        },
        **{
            f"objective {name}": f"{item['summary']} ({item['source']})"
            for name, item in found["objectives"].items()
        },
        **{
            f"reward {name}": f"{item['summary']} ({item['source']})"
            for name, item in found["rewards"].items()
        },
        "tasks": ", ".join(found["tasks"]),
        "layouts of public sets": ", ".join(found["layouts"]),
        "recipes": ", ".join(found["recipes"]),
    }
