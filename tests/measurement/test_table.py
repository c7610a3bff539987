"""The public table: its schema, its keys, its nulls, its values."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from offaxis.catalog import collect
from offaxis.diagnostics.base import Diagnostic
from offaxis.table import (
    ANGLES,
    BLOCKS,
    NULLS,
    READINGS,
    SPECTRA,
    ResultsFolder,
    definition_settings,
)

MATRICES, VECTORS = 5, 1
STEPS = [1, 5, 20]
QUANTITIES = {
    **{
        name: set(item.units)
        for name, item in collect("offaxis.diagnostics", Diagnostic).items()
        if not item.is_relative
    },
    "similarity": {"right_to_final", "left_to_final", "right_increment", "left_increment"},
}
PRIMARY = {
    "sparsity": {"gate_cell_average"},
    "masks": {"gate_cell_average", "independence"},
    "gate": {"open_gates", "everything_visible"},
    "norm": {"storage_rounding", "sign_flip"},
    "rotation": {"sign_flip"},
    "principal_energy": {"sign_flip"},
    "spectral_shift": {"sign_flip"},
    "rank": {"sign_flip"},
    "tail": {"sign_flip"},
    "similarity": {"random_walk"},
}


def rows(results: ResultsFolder, **wanted: object) -> list[dict]:
    table = results.read("readings")
    for column, value in wanted.items():
        table = table.filter(pc.equal(table[column], value))
    return table.to_pylist()


def test_schema_and_keys(results: ResultsFolder) -> None:
    for name, schema in (
        ("readings", READINGS),
        ("nulls", NULLS),
        ("spectra", SPECTRA),
        ("angles", ANGLES),
        ("blocks", BLOCKS),
    ):
        assert results.read(name).schema.names == schema.names
    key = ["run", "step", "tensor", "view", "diagnostic", "quantity", "definition"]
    readings = results.read("readings").select(key).to_pylist()
    assert len({tuple(row.values()) for row in readings}) == len(readings)
    found: dict[str, set[str]] = {}
    for row in readings:
        found.setdefault(row["diagnostic"], set()).add(row["quantity"])
    assert found == QUANTITIES


def test_every_matrix_of_every_checkpoint_is_there(results: ResultsFolder) -> None:
    table = results.read("readings")
    assert sorted(set(table["step"].to_pylist())) == STEPS
    assert len(set(table["tensor"].to_pylist())) == MATRICES + VECTORS
    stable = rows(results, quantity="stable_rank")
    assert len(stable) == MATRICES * len(STEPS) * 2  # as stored, and as bf16
    row = rows(results, tensor="model.layers.1.mlp.up_proj.weight", step=5)[0]
    assert (row["layer"], row["role"], row["rows"], row["cols"]) == (1, "up_proj", 80, 32)
    assert row["run"] == "tiny"
    assert row["master_precision"] == "unknown"
    assert row["compute_precision"] == "float64"


def test_every_reading_has_its_null_beside_it(results: ResultsFolder) -> None:
    nulls = {
        tuple(
            row[k] for k in ("step", "tensor", "diagnostic", "quantity", "definition", "null")
        ): row
        for row in results.read("nulls").to_pylist()
    }
    for row in rows(results):
        stored = definition_settings(row["definition"])["as"]
        if row["role"] == "norm" and row["null"] == "none":
            assert row["flags"] == "vector"
            continue
        assert row["null"] in PRIMARY[row["diagnostic"]]
        names = ("step", "tensor", "diagnostic", "quantity", "definition", "null")
        null = nulls[tuple(row[k] for k in names)]
        assert (row["null_mean"], row["null_sd"]) == (null["mean"], null["sd"])
        if row["value"] is not None:
            assert row["null_mean"] is not None, row
        assert stored in ("stored", "bf16")
    kinds = {row["null"] for row in nulls.values()}
    assert kinds == {
        "gate_cell_average",
        "permutation",
        "sign_flip",
        "storage_rounding",
        "random_walk",
        "chance",
        "marchenko_pastur",
        "stratified",
        "independence",
        "open_gates",
        "everything_visible",
        "isotropic",
    }


def test_nothing_is_nan_and_undefined_is_explained(results: ResultsFolder) -> None:
    for row in rows(results):
        assert row["value"] is None or math.isfinite(row["value"])
        assert row["value"] is not None or row["flags"]
    for row in results.read("nulls").to_pylist():
        assert row["mean"] is None or math.isfinite(row["mean"])


def test_values_against_numpy(results: ResultsFolder, run_folder: Path) -> None:
    anchor = load_file(run_folder / "checkpoint-0" / "model.safetensors")
    for step in STEPS:
        current = load_file(run_folder / f"checkpoint-{step}" / "model.safetensors")
        for name, W0 in anchor.items():
            if W0.ndim < 2:
                continue
            for storage in ("stored", "bf16"):
                cast = (lambda W: W) if storage == "stored" else (lambda W: W.bfloat16())
                D = (cast(current[name]).double() - cast(W0).double()).numpy()
                s = np.linalg.svd(D)[1]
                found = {
                    row["quantity"]: row["value"]
                    for row in rows(results, step=step, tensor=name)
                    if definition_settings(row["definition"])["as"] == storage
                }
                assert found["frobenius_norm"] == pytest.approx(np.linalg.norm(D), rel=1e-9)
                assert found["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-9)


def test_a_planted_low_rank_update_stands_out_of_its_null(results: ResultsFolder) -> None:
    for row in rows(results, quantity="spikes", step=20, definition="v2;margin=1.02;as=stored"):
        assert row["value"] == 2
        assert row["null_mean"] <= 0.5
    for row in rows(
        results, quantity="stable_rank", step=20, definition="v2;margin=1.02;as=stored"
    ):
        assert row["value"] < row["null_mean"] - 2 * row["null_sd"]


def test_bf16_files_hide_a_small_update(results: ResultsFolder) -> None:
    def mean(step: int, definition: str) -> float:
        found = rows(results, quantity="stable_rank", step=step, definition=definition)
        return float(np.mean([row["value"] for row in found]))

    assert mean(1, "v2;margin=1.02;as=bf16") > 2 * mean(1, "v2;margin=1.02;as=stored")
    assert mean(20, "v2;margin=1.02;as=bf16") == pytest.approx(
        mean(20, "v2;margin=1.02;as=stored"), rel=0.1
    )


def test_settings_are_in_the_definition(results: ResultsFolder) -> None:
    (name,) = {
        row["definition"]
        for row in rows(results, diagnostic="masks", tensor="model.layers.1.mlp.up_proj.weight")
    }
    assert name == "v3;alpha=0.3;rank=4;eta=0.001;as=stored"
    found = {row["definition"] for row in rows(results, diagnostic="similarity")}
    assert found == {"v1;K=4;final=20;as=stored"}


def test_factors_are_public(results: ResultsFolder, run_folder: Path) -> None:
    tensor = "model.layers.1.mlp.up_proj.weight"
    with safe_open(results.factors("tiny", 20, f"{tensor}.stored"), framework="pt") as handle:
        left, right = handle.get_tensor("left"), handle.get_tensor("right")
        s = handle.get_tensor("delta_spectrum")
        assert handle.metadata()["format"] == "4"
    W0 = load_file(run_folder / "checkpoint-0" / "model.safetensors")[tensor].double()
    W1 = load_file(run_folder / "checkpoint-20" / "model.safetensors")[tensor].double()
    torch.testing.assert_close((W1 - W0) @ right, left * s[:4], rtol=1e-9, atol=1e-12)


def test_the_manifest_says_what_was_measured(results: ResultsFolder) -> None:
    manifest = results.manifest()
    (run,) = manifest["runs"]
    assert (run["name"], run["steps"]) == ("tiny", STEPS)
    assert manifest["coverage"] == {
        "measured": MATRICES,
        "elements_only": ["model.norm.weight"],
        "skipped": [],
        "paired": MATRICES + 1,
        "share_of_anchor": 1.0,
        "share_of_checkpoint": 1.0,
        "renamed": [],
        "resized": [],
        "only_in_anchor": [],
        "only_in_checkpoint": [],
        "absent": {},
        "tied": [],
        "notes": [],
    }
    assert set(manifest["definitions"]) == set(QUANTITIES)
    assert all(d["source"] for d in manifest["definitions"].values())
    assert json.dumps(manifest)
