"""However a checkpoint's matrices are named and stored, the readings are the same, bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, Phi3Config, Qwen3MoeConfig

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.cli import run as command
from offaxis.errors import CoverageError
from offaxis.measurement import Options, Pass, measure
from offaxis.measurement.jobs import unit_path
from offaxis.measurement.plan import make_plan
from offaxis.measurement.stream import run_task
from offaxis.measurement.units import load
from offaxis.table import ResultsFolder
from tests.models import Weights, anchor_weights, moved, save, save_run

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 20,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OF_EXPERTS = {**SIZES, "num_experts_per_tok": 1}
MODELS = {
    "qwen3_moe": Qwen3MoeConfig(num_experts=2, moe_intermediate_size=12, head_dim=4, **OF_EXPERTS),
    "mixtral": MixtralConfig(num_local_experts=2, **OF_EXPERTS),
}
OPTIONS = Options(draws=2, edge_draws=2)


def measured(anchor: Path, current: Path, out: Path) -> dict[str, Any]:
    """Every unit of a checkpoint by its matrix: shape, readings, nulls, and all of its tensors."""
    trajectories = find_trajectories([current], anchor=anchor, run="run")
    plan = make_plan(trajectories, ResultsFolder(out), OPTIONS, str)
    found: dict[str, Any] = {}
    for task in plan.tasks:
        run_task(task)
        (series,) = task.series
        unit = load(unit_path(task, series, series.checkpoints[0], "stored"))
        assert unit is not None
        assert task.view.key not in found
        tensors = {name: tensor.tolist() for name, tensor in unit.tensors().items()}
        found[task.view.key] = (task.view.shape, unit.readings, unit.nulls, tensors)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_experts_single_or_stacked_on_either_side(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[name])
    paths = {}
    for step in ("anchor", "current"):
        for form, single in (("single", True), ("stacked", False)):
            paths[step, form] = tmp_path / f"{step}-{form}"
            model.save_pretrained(paths[step, form], save_original_format=single)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.01 * torch.randn_like(weight))
    plain = measured(paths["anchor", "single"], paths["current", "single"], tmp_path / "0")
    assert len(plain) == len(load_file(paths["anchor", "single"] / "model.safetensors"))
    for old, new in (("single", "stacked"), ("stacked", "single"), ("stacked", "stacked")):
        out = tmp_path / f"{old}-{new}"
        assert (measured(paths["anchor", old], paths["current", new], out)) == plain


def renamed(weights: Weights, rename: Callable[[str], str]) -> Weights:
    return {rename(name): W for name, W in weights.items()}


def test_wrapped_names_on_either_side(tmp_path: Path) -> None:
    weights = anchor_weights()
    current = moved(weights, 0.01)
    paths = {
        (step, front): save(tmp_path / f"{step}{front}", renamed(held, f"{front}{{}}".format))
        for step, held in (("anchor", weights), ("current", current))
        for front in ("", "module._orig_mod.")
    }
    plain = measured(paths["anchor", ""], paths["current", ""], tmp_path / "0")
    for old, new in (("", "module._orig_mod."), ("module._orig_mod.", "module._orig_mod.")):
        out = tmp_path / f"to-{old}{new}"
        assert (measured(paths["anchor", old], paths["current", new], out)) == plain


def test_fused_attention_is_measured_as_its_parts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fused = AutoModelForCausalLM.from_config(Phi3Config(**SIZES))
    fused.save_pretrained(tmp_path / "a-fused")
    start = load_file(tmp_path / "a-fused" / "model.safetensors")
    end = {name: W + 0.01 * torch.randn_like(W) for name, W in start.items()}
    save(tmp_path / "b-fused", end)
    shutil.copy(tmp_path / "a-fused" / "config.json", tmp_path / "b-fused")
    for step, weights in (("a", start), ("b", end)):
        parts = {}
        for name, W in weights.items():
            for leaf, labels, sizes in (
                ("qkv_proj", ("q", "k", "v"), (16, 8, 8)),
                ("gate_up_proj", ("gate", "up"), (24, 24)),
            ):
                if leaf in name:
                    for label, part in zip(labels, W.split(sizes), strict=True):
                        parts[name.replace(leaf, f"{label}_proj")] = part
                    break
            else:
                parts[name] = W
        save(tmp_path / f"{step}-parts", parts)
    plain = measured(tmp_path / "a-parts", tmp_path / "b-parts", tmp_path / "0")
    for old, new in (("fused", "fused"), ("fused", "parts"), ("parts", "fused")):
        out = tmp_path / f"{old}-{new}"
        assert (measured(tmp_path / f"a-{old}", tmp_path / f"b-{new}", out)) == plain


def test_a_matrix_that_some_checkpoints_lack(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "run", {1: 1e-3, 2: 2e-3, 3: 3e-3})
    name = "model.layers.0.self_attn.k_proj.weight"
    file = folder / "checkpoint-2" / "model.safetensors"
    save(file.parent, {n: W for n, W in load_file(file).items() if n != name})
    names = ("rank", "similarity")
    options = Options((Pass("stored", names),), draws=2, edge_draws=2, min_coverage=0.9)
    out = tmp_path / "out"
    results = measure(find_trajectories([folder]), out, options, workers=1)
    steps = {}
    for row in results.read("readings").to_pylist():
        steps.setdefault(row["tensor"], set()).add(row["step"])
    assert steps.pop(name) == {1, 3}
    assert all(held == {1, 2, 3} for held in steps.values())
    assert results.manifest()["coverage"]["absent"] == {name: [2]}
    assert results.manifest()["runs"][0]["coverage"]["absent"] == {name: [2]}
    before = results.read("readings").to_pylist()
    file.unlink()
    file.parent.rmdir()
    again = measure(find_trajectories([folder]), out, options, workers=1)
    assert again.read("readings").to_pylist() == before
    assert again.manifest()["coverage"]["absent"] == {name: [2]}


def test_too_little_in_common_ends_with_4_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = save_run(tmp_path / "run", {1: 1e-3})
    file = folder / "checkpoint-1" / "model.safetensors"
    weights = load_file(file)
    save(file.parent, {n: W for n, W in weights.items() if "up_proj" not in n})
    assert command(["measure", str(folder), "--draws", "2"]) == CoverageError.exit_code == 4
    error = capsys.readouterr().err
    assert "--min-coverage" in error
    assert "'model.layers.1.mlp.up_proj.weight'" in error
    assert not (folder / "offaxis" / "factors").exists()
    assert not (folder / "offaxis" / ".digests.json").exists()
    assert command(["measure", str(folder), "--min-coverage", "2"]) == 2
    capsys.readouterr()
    assert command(["measure", str(folder), "--min-coverage", "0.5", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["coverage"]["run"]
    assert plan["only_in_anchor"] == ["model.layers.1.mlp.up_proj.weight"]
    share = sum(W.numel() for n, W in weights.items() if "up_proj" not in n)
    assert plan["share_of_anchor"] == share / sum(W.numel() for W in weights.values())
    assert plan["share_of_checkpoint"] == 1


def test_nothing_in_common_is_refused_at_any_coverage(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = save_run(tmp_path / "run", {1: 1e-3})
    save(folder / "checkpoint-1", {"other.weight": torch.ones(4, 3)})
    assert command(["measure", str(folder), "--min-coverage", "0"]) == CoverageError.exit_code
    assert "expected: a tensor that both have" in capsys.readouterr().err
