"""Which runs of a draw are measured already, by today's definitions and at every checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from offaxis.diagnostics import similarity
from offaxis.measurement import Options
from offaxis.measurement.options import diagnostics
from offaxis.runs import RunFolder
from offaxis.table import ResultsFolder, definition_settings


class _Read(NamedTuple):
    """A diagnostic, under a storage, as a version of its definition reads it."""

    diagnostic: str
    storage: str
    version: str


def unmeasured(
    results: ResultsFolder, runs: Sequence[RunFolder], options: Options
) -> list[RunFolder]:
    """Return those of some finished runs of which a results folder lacks a reading.

    A finished run is named by the hash of its recipe and does not change. One that was measured
    last with other draws, settings or another tier lacks all of them.

    Raises:
        ResultsError: If the folder is damaged.
    """
    if not results.manifest_path.exists():
        return list(runs)
    known = {entry["name"]: entry for entry in results.manifest()["runs"]}
    return [
        run
        for run in runs
        if run.root.name not in known or not _has(results, run, known[run.root.name], options)
    ]


def _has(
    results: ResultsFolder, run: RunFolder, entry: Mapping[str, Any], options: Options
) -> bool:
    name, steps = run.root.name, set(entry["steps"])
    if not set(run.steps()) - {0} <= steps or not results.part("readings", name).is_file():
        return False
    if {**entry["options"], "passes": []} != {**options.as_dict(), "passes": []}:
        return False
    readings = results.read("readings", [name]).group_by(["diagnostic", "definition"])
    held = {
        _Read(row["diagnostic"], settings.get("as", "stored"), row["definition"].split(";")[0])
        for row in readings.aggregate([("step", "count_distinct")]).to_pylist()
        if row["step_count_distinct"] == len(steps)
        for settings in (definition_settings(row["definition"]),)
    }
    passes = options.passes
    return held >= {_Read(n, p.storage, _version(n)) for p in passes for n in p.diagnostics}


def _version(name: str) -> str:
    known = diagnostics()
    return f"v{known[name].version if name in known else similarity.VERSION}"
