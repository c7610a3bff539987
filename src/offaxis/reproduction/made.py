"""How a reproduction was made: arms, draws, seeds, recipes, hashes and what training took."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offaxis.recipe import recipes_folder
from offaxis.report.figures import TableView
from offaxis.report.quantities import MISSING, number
from offaxis.reproduction import claims, published
from offaxis.reproduction.arms import SEEDS_APART, Changes, Scale, arms_of
from offaxis.reproduction.study import held_runs, measured_draws, results_of

_SHORT = 12  # hexadecimal digits of a hash, as many as tell files apart


def made(out: Path, scale: Scale, changes: Changes | None = None) -> dict[str, TableView]:
    """Return the tables by caption.

    Args:
        out: The study's folder, with its table.
        scale: Which recipes.
        changes: Overrides by arm.

    Raises:
        ResultsError: If a results folder is damaged.
    """
    tables = {"Files": _files(out)}
    pins = out / "pins.json"
    if pins.is_file():
        found = json.loads(pins.read_text("utf-8"))
        lines = tuple((str(repo), str(commit)) for repo, commit in sorted(found.items()))
        tables["Repositories"] = TableView(("repository", "commit"), lines)
    if measured_draws(out):
        tables["Arms"] = _arms(out, scale, changes)
        tables["Versions"] = _versions(out)
    return tables


def seeds_sentence() -> str:
    """How draws differ."""
    return (
        f"Draw d moves every seed of a recipe and of all that it builds on by {SEEDS_APART:,} d, "
        "initial weights included; draw 0 is the recipe as it stands."
    )


def _files(out: Path) -> TableView:
    """Hashes of what the verdicts were computed from."""
    paths = {
        "study.parquet": out / "study.parquet",
        "claims.toml": claims.FILE,
        "published.toml": published.FILE,
    }
    return TableView(
        ("file", "SHA-256"),
        tuple(
            (name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in paths.items()
        ),
    )


def _arms(out: Path, scale: Scale, changes: Changes | None) -> TableView:
    """One line an arm: its recipe, its draws with seed and hash, and the time of its steps."""
    draws: dict[str, list[str]] = {}
    spent: dict[str, float] = {}
    for draw in measured_draws(out):
        results = results_of(draw, out)
        held = held_runs(draw, out, scale, changes)
        told = {run["name"]: run for run in results.manifest()["runs"]}
        for row in results.read("training", list(held)).to_pylist():
            if row["quantity"].endswith("_seconds") and row["value"] is not None:
                arm = held[row["run"]].arm
                spent[arm] = spent.get(arm, 0.0) + row["value"]
        for run, facts in held.items():
            draws.setdefault(facts.arm, []).append(_draw(draw, told[run]))
    recipes = arms_of(scale)
    return TableView(
        ("arm", "recipe", "draws", "minutes of its steps", "draw: seed, hash of the recipe"),
        tuple(
            (
                arm,
                str(recipes[arm].relative_to(recipes_folder().parent)),
                str(len(each)),
                number(spent[arm] / 60) if arm in spent else MISSING,
                "; ".join(each),
            )
            for arm, each in sorted(draws.items())
        ),
    )


def _draw(draw: int, run: Mapping[str, Any]) -> str:
    digest = str(run.get("recipe_hash") or MISSING)[:_SHORT]
    return f"{draw}: {run.get('seed', MISSING)}, {digest}"


def _versions(out: Path) -> TableView:
    """The versions with which the first draw was measured."""
    manifest = results_of(measured_draws(out)[0], out).manifest()
    versions = {"offaxis": manifest.get("offaxis"), **(manifest.get("versions") or {})}
    lines = tuple((str(name), str(version)) for name, version in sorted(versions.items()))
    return TableView(("of", "version"), lines)
