"""The results as the page needs them: checked once, so that nothing later meets a surprise."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from offaxis.errors import ResultsError
from offaxis.table import ResultsFolder

# What the page reads of the manifest. A type stands for itself, a list for a list of its element,
# a dictionary for one whose named keys (or all of them, "*") have these shapes where they are
# given: strangers' checkpoints come without arms and recipes.
RUN = {
    "name": str,
    "arm": str,
    "seed": int,
    "anchor": str,
    "steps": [int],
    "recipe": {"optimizer": {}},
    "precision": {},
}
MANIFEST = {
    "runs": [RUN],
    "anchors": [{}],
    "coverage": {
        "skipped": [{}],
        "elements_only": [str],
        "paired": int,
        "share_of_anchor": float,
        "share_of_checkpoint": float,
        "renamed": [{}],
        "resized": [{}],
        "only_in_anchor": [str],
        "only_in_checkpoint": [str],
        "absent": {"*": [int]},
        "tied": [str],
        "notes": [str],
    },
    "tier": str,
    "definitions": {"*": {}},
    "versions": {},
    "study": {
        "notes": [],
        "labels": {"*": str},
        "controls": [{"title": str, "lead": str, "free": str, "arms": [str]}],
    },
}
IN_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}

# Without these a row has no place; everything else may be missing.
KEYS = {
    "readings": ("run", "step", "tensor", "diagnostic", "quantity", "definition"),
    "training": ("run", "step", "quantity"),
}


def manifest_of(folder: ResultsFolder) -> dict[str, Any]:
    """Read the manifest and check what the page reads of it.

    Raises:
        ResultsError: If it is missing or damaged, names no run, or has a wrong type somewhere.
    """
    manifest = folder.manifest()
    complaint = next(_complaints(manifest, MANIFEST, ""), None) or _about_runs(manifest)
    if complaint is None:
        return manifest
    raise _unusable(str(folder.manifest_path), *complaint)


def table_of(folder: ResultsFolder, name: str) -> pa.Table:
    """Read a table of all runs and check that every row has its place.

    Raises:
        ResultsError: If a file is missing or damaged, or a key is missing or cannot be read.
    """
    table = folder.read(name)
    where = str(folder.root / name)
    for column in KEYS[name]:
        if table[column].null_count:
            raise _unusable(where, f"{column} in every row", f"{table[column].null_count} without")
    if "definition" in KEYS[name]:
        for text in table["definition"].unique().to_pylist():
            if not all("=" in part for part in text.split(";")[1:]):
                raise _unusable(where, "definitions such as v1;k=16;as=stored", repr(text))
    return table


def _complaints(held: object, shape: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield what was expected and what was found wherever a value has not its shape."""
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(held, kind) or isinstance(held, bool):
        yield f"{IN_WORDS[kind]} at {where or 'the top'}", repr(held)[:80]
    elif isinstance(held, Mapping) and isinstance(shape, Mapping):
        for key, part in held.items():
            wanted = shape.get(key, shape.get("*"))
            if wanted is not None and (part is not None or "*" in shape):
                yield from _complaints(part, wanted, f"{where}.{key}".lstrip("."))
    elif isinstance(held, list) and shape and isinstance(shape, list):
        for index, part in enumerate(held):
            yield from _complaints(part, shape[0], f"{where}[{index}]")


def _about_runs(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    runs = manifest.get("runs")
    if not runs:
        return "at least one run under runs", "none"
    names = [run.get("name") for run in runs]
    if not all(names):
        return (
            "a name for every run",
            f"none at runs[{[bool(name) for name in names].index(False)}]",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    return ("every run once", f"{twice[0]!r} more than once") if twice else None


def _unusable(where: str, expected: str, found: str) -> ResultsError:
    return ResultsError(
        where,
        expected=expected,
        found=found,
        do="give the folder that `offaxis measure` wrote, or measure again",
    )
