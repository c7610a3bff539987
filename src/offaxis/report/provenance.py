"""Where the numbers come from: definitions with their settings, coverage, precision, hashes."""

from collections.abc import Mapping, Sequence
from typing import Any

from offaxis.report.figures import TableView
from offaxis.report.frames import LEFT_OUT_ROLES, file_formats
from offaxis.report.quantities import MISSING
from offaxis.report.study import Study
from offaxis.report.words import DEFINITION_WORDS, FLAG_WORDS, GATE_WORDS, explained
from offaxis.table import definition_settings

_SHOWN = 50
"""How many names of a list the page has; the manifest has all."""


def provenance(study: Study) -> dict[str, Any]:
    """Return definitions, coverage, versions and hashes, as printable rows."""
    manifest = study.manifest
    coverage = manifest.get("coverage") or {}
    return {
        "definitions": [
            (
                name,
                _settings(study.frame.definitions.get(name, ())),
                DEFINITION_WORDS.get(name, _said(held, "text")),
                _said(held, "source"),
            )
            for name, held in sorted((manifest.get("definitions") or {}).items())
        ],
        "measured": coverage.get("measured"),
        "skipped": [
            (str(item.get("tensor")), str(item.get("reason")))
            for item in coverage.get("skipped") or []
        ],
        "elements_only": coverage.get("elements_only") or [],
        "paired": _paired(coverage),
        "averaged": study.frame.num_matrices,
        "left_out": ", ".join(LEFT_OUT_ROLES),
        "flags": [
            (explained(FLAG_WORDS, flag), count) for flag, count in study.frame.flags.items()
        ],
        "versions": sorted((str(k), str(v)) for k, v in (manifest.get("versions") or {}).items()),
        "anchors": [
            (str(anchor.get("id")), str(anchor.get("sha256") or MISSING))
            for anchor in manifest.get("anchors") or []
        ],
        "offaxis": str(manifest.get("offaxis") or MISSING),
        "tier": str(manifest.get("tier") or MISSING),
        "runs": _runs(study),
    }


def _paired(coverage: Mapping[str, Any]) -> dict[str, Any]:
    """Say what of the models was paired, under which names, and what was not."""
    shares = coverage.get("share_of_anchor"), coverage.get("share_of_checkpoint")
    said = [f"tied: {text}" for text in coverage.get("tied") or []]
    said += [
        f"{item.get('tensor')}: the rows that both have, of {item.get('in_anchor')} in the anchor "
        f"and {item.get('in_checkpoint')} in the checkpoint"
        for item in coverage.get("resized") or []
    ]
    lists = {
        "only in the anchor": coverage.get("only_in_anchor") or [],
        "only in a checkpoint": coverage.get("only_in_checkpoint") or [],
        "missing at some steps": [
            f"{label} (step {', '.join(map(str, steps))})"
            for label, steps in (coverage.get("absent") or {}).items()
        ],
    }
    return {
        "count": coverage.get("paired"),
        "shares": [f"{share:.2%}" for share in shares if share is not None],
        "renamed": [
            (item.get("anchor"), item.get("checkpoint"), item.get("tensors"))
            for item in coverage.get("renamed") or []
        ],
        "lists": [(title, len(names), names[:_SHOWN]) for title, names in lists.items() if names],
        "said": [*said, *(coverage.get("notes") or [])],
    }


def _settings(definitions: Sequence[str]) -> str:
    """Print the version and settings of a diagnostic's definitions, the values of each together."""
    if not definitions:
        return "not measured"
    values: dict[str, list[str]] = {}
    for text in definitions:
        for key, value in definition_settings(text).items():
            values.setdefault(key, []).append(value)
    versions = sorted({text.split(";")[0].removeprefix("v") for text in definitions})
    shown = [f"version {', '.join(versions)}"]
    for key, given in values.items():
        shown.append(f"{key} = {', '.join(sorted(set(given), key=_in_order))}")
    return "; ".join(shown)


def _in_order(text: str) -> tuple[int, str]:
    return (int(text) if text.isdigit() else 0, text)


def _said(held: Mapping[str, Any], name: str) -> str:
    return str(held.get(name) or MISSING)


def _runs(study: Study) -> TableView:
    """Say of each run in which formats it was stored and trained, and how it was measured."""
    formats = file_formats(study.readings)
    masters, computed = (
        _of_each_run(study, column) for column in ("master_precision", "compute_precision")
    )
    tiers = _of_each_run(study, "method")
    rows = []
    for run in (run for arm in (*study.arms, *study.controls) for run in arm.runs):
        name = str(run["name"])
        held = masters.get(name, {})
        rows.append(
            (
                name,
                ", ".join(formats.get(name, [])) or MISSING,
                ", ".join(held) or MISSING,
                ", ".join(f"{tier}: {count}" for tier, count in tiers.get(name, {}).items())
                or MISSING,
                ", ".join(computed.get(name, {})) or MISSING,
                _trained(run),
                "; ".join(dict.fromkeys(_gate(master) for master in held)) or MISSING,
            )
        )
    head = (
        "run", "files", "master weights", "readings by tier", "measured in", "training says",
        "the gate's null",
    )  # fmt: skip
    return TableView(head, tuple(rows))


def _of_each_run(study: Study, column: str) -> dict[str, dict[str, int]]:
    """Count the values of a column in the readings of each run."""
    table = study.readings.group_by(["run", column], use_threads=False)
    found: dict[str, dict[str, int]] = {}
    for row in table.aggregate([([], "count_all")]).to_pylist():
        found.setdefault(row["run"], {})[row[column] or "unknown"] = row["count_all"]
    return {run: dict(sorted(counts.items())) for run, counts in found.items()}


def _gate(master: str) -> str:
    """Say what the format of the master weights means for the nulls of the precision gate."""
    return GATE_WORDS.get(master, GATE_WORDS["low"])


def _trained(run: Mapping[str, Any]) -> str:
    held = run.get("precision") or {}
    return ", ".join(f"{key}: {value}" for key, value in sorted(held.items())) or "not recorded"
