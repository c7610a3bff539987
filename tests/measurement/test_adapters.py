"""Adapters measured against their base, end to end, beside float64 LAPACK and merged files."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.cli import run as cli
from offaxis.errors import CheckpointError
from offaxis.measurement import Options, measure
from offaxis.measurement.digests import hash_checkpoint
from offaxis.measurement.options import passes
from offaxis.table import ResultsFolder
from tests.adapters import ADAPTED, dense, factors, save_adapter
from tests.judge import judge
from tests.models import anchor_weights, save

STEPS = (1, 2, 4)
SMALL = 0.002
NEAR = ["norm", "rank", "spectral_shift", "rotation"]
DRAWN = {"spikes", "corrected_stable_rank", "corrected_norm", "spike_energy"}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in bf16; a series of adapters, a small one that is merged too, and one of nothing."""
    root = tmp_path_factory.mktemp("adapters")
    save(root / "base", anchor_weights(), torch.bfloat16)
    for step in STEPS:
        save_adapter(root / "lora" / f"checkpoint-{step}", factors(step))
    small = factors(2, SMALL)
    save_adapter(root / "small" / "checkpoint-2", small)
    nothing = {tensor: (A, torch.zeros_like(B)) for tensor, (A, B) in small.items()}
    save_adapter(root / "small" / "checkpoint-3", nothing)
    weights = {name: W.bfloat16().double() for name, W in anchor_weights().items()}
    for name, D in dense(small).items():
        weights[name] += D
    save(root / "merged" / "checkpoint-2", weights, torch.bfloat16)
    return root


def call(root: Path, out: Path, *more: str) -> list[str]:
    runs = [str(root / name) for name in ("lora", "small", "merged")]
    fixed = ["--anchor", str(root / "base"), "--out", str(out), "--workers", "1"]
    return ["measure", *runs, *fixed, "--as", "stored", "--as", "bf16", *more]


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    out = tmp_path_factory.mktemp("results")
    assert cli(call(folder, out)) == 0
    return ResultsFolder(out)


def rows(results: ResultsFolder, table: str = "readings", **wanted: Any) -> list[Row]:
    found = results.read(table).to_pylist()
    return [row for row in found if all(row[name] == value for name, value in wanted.items())]


def of(storage: str, found: list[Row]) -> list[Row]:
    return [row for row in found if row["definition"].endswith(f"as={storage}")]


def test_every_step_reads_as_the_float64_product(results: ResultsFolder) -> None:
    anchor = {name: W.bfloat16() for name, W in anchor_weights().items()}
    read = of("stored", rows(results, run="lora"))
    for step in STEPS:
        for name, D in dense(factors(step)).items():
            truth = judge(anchor[name], anchor[name].double() + D, D)
            for row in read:
                key = f"{row['diagnostic']}.{row['quantity']}"
                true = truth.get(key)
                if (row["step"], row["tensor"]) != (step, name) or true is None:
                    continue
                if row["value"] is None or not math.isfinite(true.error):
                    continue
                assert abs(row["value"] - true.value) <= row["error_bound"] + true.error, key
                if row["diagnostic"] in ("norm", "rank"):
                    assert row["value"] == pytest.approx(true.value, rel=1e-10), key


def test_its_spectrum_has_its_rank(results: ResultsFolder) -> None:
    for step in STEPS:
        for name, D in dense(factors(step)).items():
            place = {"run": "lora", "step": step, "tensor": name, "matrix": "delta"}
            (found,) = rows(results, "spectra", precision="stored", **place)
            values = torch.tensor(found["singular_values"], dtype=torch.float64)
            s, rank = torch.linalg.svdvals(D), ADAPTED[name]
            torch.testing.assert_close(values[:rank], s[:rank], rtol=1e-11, atol=0)
            assert not bool(values[rank:].any())


def test_increments_are_those_of_the_dense_steps(results: ResultsFolder) -> None:
    before = {name: torch.zeros_like(D) for name, D in dense(factors(1)).items()}
    for step in STEPS:
        for name, D in dense(factors(step)).items():
            held = load_file(results.factors("lora", step, f"{name}.stored"))
            E = D - before[name]
            assert float(held["increment_norm"]) == pytest.approx(float(E.norm()), rel=1e-10)
            s, k = torch.linalg.svdvals(E), 2 * ADAPTED[name]
            found = held["increment_spectrum"]
            torch.testing.assert_close(found[:k], s[:k], rtol=1e-9, atol=1e-13)
            assert not bool(found[k:].any())
            before[name] = D


def test_rows_say_that_no_file_holds_the_sum(results: ResultsFolder) -> None:
    for run in ("lora", "small"):
        for row in rows(results, run=run):
            is_stored = "as=stored" in row["definition"]
            flagged = "unmerged" in row["flags"].split(";")
            assert flagged is (is_stored and row["diagnostic"] != "similarity")
            assert "mixed_precision" not in row["flags"]
            assert row["stored_precision"] == ("float64" if is_stored else "bfloat16")
    assert all("unmerged" not in row["flags"] for row in rows(results, run="merged"))


def test_what_stands_beside_a_spectrum_has_the_rank_of_the_adapter(results: ResultsFolder) -> None:
    """As bf16 would show it, or merged, the update is no product of thin factors any more."""
    wanted = {"step": 2, "quantity": "effective_rank"}
    for name, rank in ADAPTED.items():
        (own,) = of("stored", rows(results, run="small", tensor=name, **wanted))
        assert own["null"] == "random_factors"
        assert own["value"] < rank * (1 + 1e-9)
        assert 0.7 * rank < own["null_mean"] < rank
        (shown,) = of("bf16", rows(results, run="small", tensor=name, **wanted))
        (merged,) = of("stored", rows(results, run="merged", tensor=name, **wanted))
        assert shown["null"] == merged["null"] == "sign_flip"
        assert merged["null_mean"] > 5 * rank


def test_what_stands_beside_similarity_is_a_walk_of_the_factors(results: ResultsFolder) -> None:
    nulls = rows(results, "nulls", run="lora", diagnostic="similarity")
    assert {row["null"] for row in of("stored", nulls)} == {"factor_walk", "chance"}
    assert {row["null"] for row in of("bf16", nulls)} == {"random_walk", "chance"}
    wanted = {"run": "lora", "step": 2, "tensor": "model.layers.1.mlp.up_proj.weight"}
    (own,) = of("stored", rows(results, quantity="right_increment", **wanted))
    assert own["null"] == "factor_walk"
    assert own["value"] > 0.8  # A hardly moves
    assert abs(own["value"] - own["null_mean"]) < 0.1


def test_the_steps_of_the_factors_are_kept_with_the_update(results: ResultsFolder) -> None:
    for name, rank in ADAPTED.items():
        scale = 0.4 if "up_proj" in name else 2.0
        A, B = (torch.zeros(()) for _ in range(2))
        for step in STEPS:
            held = load_file(results.factors("lora", step, f"{name}.stored"))
            (after_A, after_B), before_A, before_B = factors(step)[name], A, B
            left, right = after_B - before_B, scale * (after_A - before_A).T
            assert float(held["factor_rank"]) == rank
            for side, moved in (("left", left), ("right", right)):
                wanted = moved.double().square().mean(1).sqrt()
                torch.testing.assert_close(held[f"{side}_step_rms"], wanted, rtol=1e-6, atol=1e-8)
            A, B = after_A, after_B


def test_adapters_that_no_walk_leads_to_have_none(folder: Path, tmp_path: Path) -> None:
    """From another adapter, of another rank, beside a merged file."""
    name = "model.layers.1.mlp.up_proj.weight"
    lora = [folder / "lora" / f"checkpoint-{step}" for step in STEPS]
    A, B = factors(5)[name]
    wider = torch.cat([A, A[:1]]), torch.cat([B, -B[:, :1]], 1)
    settings: dict[str, Any] = {"r": 6, "lora_alpha": 6, "rank_pattern": {}, "alpha_pattern": {}}
    save_adapter(tmp_path / "wider" / "checkpoint-5", {name: wider}, **settings)
    cases = {
        "from": (lora[0], lora[1:]),
        "ranks": (folder / "base", [*lora, tmp_path / "wider" / "checkpoint-5"]),
        "merged": (folder / "base", [lora[0], folder / "merged" / "checkpoint-2"]),
    }
    options = Options(
        passes=passes(["stored"], ["similarity"]), access=Access(base=folder / "base")
    )
    for run, (anchor, paths) in cases.items():
        trajectories = find_trajectories(paths, anchor=anchor, run=run)
        found = measure(trajectories, tmp_path / "out" / run, options, workers=1)
        own = rows(found, tensor=name, diagnostic="similarity")
        assert {row["null"] for row in own} == {"none"}
        assert any(row["value"] is not None for row in own)
        beside = rows(found, "nulls", tensor=name, diagnostic="similarity")
        assert {row["null"] for row in beside} == {"chance"}


def test_what_is_not_adapted_is_said_and_not_measured(results: ResultsFolder) -> None:
    (run,) = (r for r in results.manifest()["runs"] if r["name"] == "lora")
    coverage = run.get("coverage") or results.manifest()["coverage"]
    left = {item["tensor"] for item in coverage["skipped"]}
    assert left == anchor_weights().keys() - ADAPTED.keys()
    assert {item["reason"] for item in coverage["skipped"]} == {"not adapted: as in the base"}
    assert coverage["share_of_anchor"] == coverage["share_of_checkpoint"] == 1.0
    assert {row["tensor"] for row in rows(results, run="lora")} == set(ADAPTED)


def test_an_adapter_of_nothing_reads_zero(results: ResultsFolder) -> None:
    found = of("stored", rows(results, run="small", step=3, quantity="frobenius_norm"))
    assert len(found) == len(ADAPTED)
    assert {(row["value"], row["flags"]) for row in found} == {(0.0, "zero_update;unmerged")}


def test_a_merged_file_agrees_within_the_rounding_that_is_printed(results: ResultsFolder) -> None:
    same = {"step": 2, "quantity": "frobenius_norm", "null": "storage_rounding"}
    for name in ADAPTED:
        (null,) = of("stored", rows(results, "nulls", run="merged", tensor=name, **same))
        (none,) = of("stored", rows(results, "nulls", run="small", tensor=name, **same))
        for quantity in ("frobenius_norm", "spectral_norm"):
            wanted = {"step": 2, "tensor": name, "quantity": quantity}
            (own,) = of("stored", rows(results, run="small", **wanted))
            (file,) = of("stored", rows(results, run="merged", **wanted))
            assert 0 < abs(file["value"] - own["value"]) <= null["mean"] + 4 * null["sd"]
            assert none["mean"] < 1e-9 * own["value"]  # of what nothing has rounded
            assert null["mean"] > 1e-3 * own["value"]


def test_as_bf16_shows_what_the_merged_file_does(results: ResultsFolder) -> None:
    own, file = (
        {
            (row["tensor"], row["quantity"]): row["value"]
            for row in of("bf16", rows(results, run=run, step=2))
            if row["diagnostic"] in ("norm", "rank", "sparsity", "gate", "rotation")
            and row["quantity"] not in DRAWN
        }
        for run in ("small", "merged")
    )
    assert len(own) > 20
    assert {key: file[key] for key in own} == own


def test_a_second_call_makes_nothing_and_a_later_step_is_added(
    folder: Path, results: ResultsFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    shutil.copytree(folder, root)
    shutil.copytree(results.root, out)

    def made() -> dict[Path, int]:
        return {f: f.stat().st_mtime_ns for f in out.rglob("*.safetensors")}

    before = made()
    save_adapter(root / "lora" / "checkpoint-5", factors(5))
    assert cli(call(root, out)) == 0
    after = made()
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2 * len(ADAPTED)
    # Other settings beside the same tensors are other weights.
    save_adapter(root / "lora" / "checkpoint-5", factors(5), lora_alpha=3)
    capsys.readouterr()
    assert cli(call(root, out)) == 3
    assert "other weights" in capsys.readouterr().err


def test_an_adapter_that_changes_no_matrix_is_refused(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "run" / "checkpoint-1", {})
    trajectories = find_trajectories([tmp_path / "run"], anchor=folder / "base")
    with pytest.raises(CheckpointError, match="changes a matrix"):
        measure(trajectories, tmp_path / "out", Options(), workers=1)


def test_an_adapter_alone_names_the_way_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = (str(folder / "lora" / f"checkpoint-{step}") for step in (1, 4))
    assert cli(["measure", last, "--anchor", first, "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "an adapter alone" in said
    assert "--anchor" in said


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_base_that_is_no_checkpoint_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str]
) -> None:
    paths = [str(folder / name) for name in ("base", "merged/checkpoint-2")]
    out = ["--out", str(tmp_path / "out"), "--base", str(tmp_path / "nowhere")]
    assert cli(["measure", *paths, *out, *more]) == 3
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_base_changes_nothing_where_there_is_no_adapter(folder: Path, tmp_path: Path) -> None:
    call = ["measure", *(str(folder / name) for name in ("base", "merged/checkpoint-2"))]
    call += ["--out", str(tmp_path), "--workers", "1", "--diagnostics", "norm"]
    assert cli(call) == 0
    tables = [path.read_bytes() for path in sorted(tmp_path.rglob("*.parquet"))]
    assert cli([*call, "--base", str(folder / "base")]) == 0
    assert [path.read_bytes() for path in sorted(tmp_path.rglob("*.parquet"))] == tables


def test_an_adapter_is_an_anchor_where_its_base_is_given(folder: Path, tmp_path: Path) -> None:
    """Steps 2 and 4 from step 1, with readings of the sum as well as of the factors."""
    paths = [folder / "lora" / f"checkpoint-{step}" for step in STEPS]
    options = Options(passes=passes(["stored"], NEAR), access=Access(base=folder / "base"))
    trajectories = find_trajectories(paths[1:], anchor=paths[0], run="on")
    found = measure(trajectories, tmp_path, options, workers=1)
    start = dense(factors(1))
    for step in STEPS[1:]:
        for name, D in dense(factors(step)).items():
            W = anchor_weights()[name].bfloat16().double() + start[name]
            E = D - start[name]
            truth = judge(W, W + E, E)
            read = {
                f"{row['diagnostic']}.{row['quantity']}": row
                for row in rows(found, step=step, tensor=name)
            }
            for key in ("norm.frobenius_norm", "norm.spectral_norm", "rank.stable_rank"):
                assert read[key]["value"] == pytest.approx(truth[key].value, rel=1e-10)
            for key in ("spectral_shift.spectral_shift", "rotation.left_mean"):
                row, true = read[key], truth[key]
                assert row["value"] > 0
                assert abs(row["value"] - true.value) <= row["error_bound"] + true.error
    assert {row["tensor"] for row in rows(found)} == set(ADAPTED)
    base, first = (hash_checkpoint(path).digest for path in (folder / "base", paths[0]))
    (run,) = found.manifest()["runs"]
    assert run["anchor_sha256"] not in (base, first)
