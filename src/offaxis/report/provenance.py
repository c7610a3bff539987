"""Where the numbers come from: definitions with their settings, coverage, precision, hashes."""

from collections.abc import Mapping, Sequence
from typing import Any

from offaxis.report.frames import LEFT_OUT_ROLES
from offaxis.report.quantities import MISSING
from offaxis.report.study import Study
from offaxis.report.words import DEFINITION_WORDS, FLAG_WORDS, explained
from offaxis.table import definition_settings


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
        "precision": [
            *_measured_precision(study),
            *sorted({_precision(run) for arm in study.arms for run in arm.runs}),
        ],
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


def _measured_precision(study: Study) -> list[str]:
    """Say in which precisions the checkpoints were stored, trained and measured."""
    columns = ["stored_precision", "master_precision", "compute_precision"]
    rows = study.readings.group_by(columns, use_threads=False).aggregate([]).to_pylist()
    stored, master, compute = ([row[column] or "unknown" for row in rows] for column in columns)
    return sorted(
        f"files {one}, master weights {other}, measured in {third}"
        for one, other, third in zip(stored, master, compute, strict=True)
    )


def _precision(run: Mapping[str, Any]) -> str:
    held = run.get("precision") or {}
    return (
        ", ".join(f"{key}: {value}" for key, value in sorted(held.items()))
        or "training: not recorded"
    )
