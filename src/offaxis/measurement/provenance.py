"""The manifest of a results folder: what was measured, of what, by which definitions."""

import platform
from collections.abc import Collection
from importlib.metadata import version
from typing import Any

import offaxis
from offaxis.checkpoints.trajectory import Trajectory
from offaxis.diagnostics import similarity
from offaxis.measurement.covering import Covered, absent_since, together
from offaxis.measurement.options import Options, Storage, diagnostics
from offaxis.measurement.plan import Plan

ANCHOR_DIGITS = 12
"""How many hexadecimal digits of its hash name an anchor in the tables."""

_LIBRARIES = ("numba", "numpy", "pyarrow", "safetensors", "scipy", "torch")

Runs = dict[str, dict[str, Any]]

_FROM_TRAINING = (
    "arm",
    "objective",
    "seed",
    "recipe",
    "recipe_hash",
    "precision",
    "start",
    "teacher",
    "accuracy_start",
    "accuracy_final",
)


def manifest(
    plan: Plan, options: Options, held: dict[str, Any], study: dict[str, Any] | None
) -> dict[str, Any]:
    """Describe a folder that holds the runs of this plan beside those of its manifest so far."""
    earlier: Runs = {run["name"]: run for run in held.get("runs", [])}
    runs = earlier | {
        t.run: _run_entry(t, plan, options, earlier.get(t.run, {})) for t in plan.trajectories
    }
    ordered = [runs[name] for name in sorted(runs)]
    anchors = {run["anchor"]: run["anchor_sha256"] for run in ordered}
    return {
        "offaxis": offaxis.__version__,
        "tier": options.tier,
        "definitions": definitions({*_named(options), *held.get("definitions", {})}),
        "runs": ordered,
        "anchors": [{"id": name, "sha256": anchors[name]} for name in sorted(anchors)],
        "coverage": together([run["coverage"] for run in ordered]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        "study": study if study is not None else held.get("study"),
    }


def measured_steps(plan: Plan, run: str, known: dict[str, Any]) -> dict[Storage, tuple[int, ...]]:
    """The steps of a run that have units after this plan, under each storage."""
    present = {source.step for source in plan.sources[run] if not source.is_gone}
    found: dict[Storage, set[int]] = {
        storage: set(steps) for storage, steps in known.get("measured", {}).items()
    }
    for each in plan.options.passes:
        found.setdefault(each.storage, set()).update(present)
    return {storage: tuple(sorted(steps)) for storage, steps in sorted(found.items())}


def run_coverage(plan: Plan, run: str, known: dict[str, Any]) -> Covered:
    """What of a run is measured, at steps whose checkpoints are gone since included."""
    found = plan.coverage()[run]
    gone = [source.step for source in plan.sources[run] if source.is_gone]
    return {**found, "absent": absent_since(found, known.get("coverage", {}), gone)}


def _named(options: Options) -> set[str]:
    return {name for each in options.passes for name in each.diagnostics}


def definitions(measured: Collection[str]) -> dict[str, Any]:
    """Every diagnostic with its version, quantities, source and text; of relatives the measured."""
    found = {
        item.name: {
            "version": item.version,
            "quantities": dict(item.units),
            "source": item.source,
            "text": (item.function.__doc__ or "").strip(),
        }
        for item in diagnostics().values()
        if not item.is_relative or item.name in measured
    }
    found[similarity.NAME] = {
        "version": similarity.VERSION,
        "quantities": dict(similarity.UNITS),
        "source": similarity.SOURCE,
        "text": (similarity.similarity.__doc__ or "").strip(),
    }
    return found


def _run_entry(
    trajectory: Trajectory, plan: Plan, options: Options, known: dict[str, Any]
) -> dict[str, Any]:
    said, run = trajectory.manifest, trajectory.run
    anchor, sources = plan.anchor_of[run], plan.sources[run]
    return {
        "name": run,
        **{name: said.get(name) for name in _FROM_TRAINING},
        "path": trajectory.origin,
        "anchor": anchor.digest[:ANCHOR_DIGITS],
        "anchor_sha256": anchor.digest,
        "anchor_path": str(anchor.path),
        "steps": [source.step for source in sources],
        "measured": {s: list(steps) for s, steps in measured_steps(plan, run, known).items()},
        "options": options.as_dict(),
        "checkpoint_sha256": {str(s.step): s.digest for s in sources},
        "checkpoint_paths": {str(s.step): str(s.path.resolve()) for s in sources},
        "coverage": run_coverage(plan, run, known),
    }
