"""What `inspect` says of runs, checkpoints, files and garbage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.hostile import PROOF, distributed, payloads
from tests.models import anchor_weights, save, save_run

from offaxis.checkpoints.adapters.folder import PICKLED
from offaxis.checkpoints.inspection import inspect
from offaxis.cli import run
from offaxis.errors import CheckpointError
from offaxis.runs import RunFolder

NUMBERS = sum(W.numel() for W in anchor_weights().values())


def test_a_run(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "run", {9: 0.1, 10: 0.1}, torch.bfloat16)
    RunFolder(folder).write_manifest(
        {"name": "run", "anchor": "checkpoint-0", "precision": {"weights": "float32"}}
    )
    config = {"architectures": ["Qwen3ForCausalLM"], "dtype": "bfloat16"}
    config["tie_word_embeddings"] = True
    (folder / "checkpoint-10" / "config.json").write_text(json.dumps(config))
    found = inspect(folder)
    size = (folder / "checkpoint-10" / "model.safetensors").stat().st_size
    expected = {
        "kind": "run",
        "format": "safetensors",
        "steps": [0, 9, 10],
        "anchor": "checkpoint-0",
        "tensors": 6,
        "parameters": NUMBERS,
        "bytes": size,
        "dtypes": {"bfloat16": {"tensors": 6, "numbers": NUMBERS}},
        "model": "Qwen3ForCausalLM",
        "precision": ["bfloat16 (config.json)", "weights float32 (manifest.json)"],
        "tied_embeddings": True,
        "needs": [],
        "measure": f"offaxis measure {folder}",
    }
    assert {key: found[key] for key in expected} == expected


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "one", anchor_weights())
    monkeypatch.setattr(
        "offaxis.checkpoints.safetensors_folder.SafetensorsFolder.read", lambda *a, **k: 1 / 0
    )
    assert inspect(folder)["tensors"] == 6
    monkeypatch.setattr("offaxis.checkpoints.trust.pickles._load", lambda *a: 1 / 0)
    assert inspect(distributed(tmp_path / "two"))["parameters"] == 14


def test_a_run_without_an_anchor_says_so(tmp_path: Path) -> None:
    save(tmp_path / "run" / "checkpoint-5", anchor_weights())
    found = inspect(tmp_path / "run")
    assert (found["anchor"], found["needs"]) == (None, ["--anchor"])
    assert found["measure"] == f"offaxis measure {tmp_path / 'run'} --anchor ANCHOR"


def test_pickles_are_left_closed_unless_allowed(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(anchor_weights(), file)
    for path in (tmp_path, file):
        closed, opened = inspect(path), inspect(path, pickle=True)
        assert (closed["tensors"], closed["needs"]) == (None, ["--allow-pickle"])
        assert opened["needs"] == closed["needs"]
        assert (opened["tensors"], opened["parameters"]) == (6, NUMBERS)
    assert closed["path"] == str(file)
    torch.save(payloads(PROOF)["a shell"], file)
    assert inspect(tmp_path)["needs"] == ["--allow-pickle"]
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        inspect(tmp_path, pickle=True)
    assert not PROOF.exists()


def test_an_adapter(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = torch.nn.Sequential(torch.nn.Linear(8, 6))
    adapted = get_peft_model(model, LoraConfig(r=3, lora_alpha=12, target_modules=["0"]))
    adapted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/etc"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = inspect(tmp_path)
    assert found["format"] == "adapter"
    assert (found["adapter"]["rank"], found["adapter"]["alpha"]) == (3, 12)
    assert (found["adapter"]["type"], found["adapter"]["base"]) == ("LORA", "/etc")
    assert (found["tensors"], found["parameters"]) == (2, 3 * (8 + 6))
    assert (found["needs"], found["refused"]) == ([], None)
    assert found["measure"] == f"offaxis measure ANCHOR {tmp_path}"


def test_what_an_adapter_needs_and_why_it_is_refused(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 3, "init_lora_weights": "pissa"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"base_model.model.0.lora_A.weight": torch.ones(3, 8)}, tmp_path / PICKLED)
    found = inspect(tmp_path)
    assert found["needs"] == ["--allow-pickle"]
    assert "pissa" in found["refused"]
    assert found["measure"] is None
    assert inspect(tmp_path, pickle=True)["parameters"] == 24


def test_quantised_weights(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4, 4).to(torch.float8_e5m2)}, tmp_path / "model.safetensors")
    found = inspect(tmp_path)
    assert found["needs"] == ["--allow-quantised"]
    assert found["dtypes"] == {"float8_e5m2": {"tensors": 1, "numbers": 16}}
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    found = inspect(tmp_path)
    assert "awq" in found["quantised"]
    assert found["measure"] is None


def test_formats_that_are_refused_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    for path in (tmp_path, tmp_path / "model.gguf"):
        found = inspect(path)
        assert found["format"] == "GGUF"
        assert "converted from" in found["refused"]


def test_a_single_file(tmp_path: Path) -> None:
    file = save(tmp_path, anchor_weights()) / "model.safetensors"
    assert inspect(file)["parameters"] == NUMBERS
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        inspect(file)


@pytest.mark.parametrize("kind", ["nothing", "empty", "text", "damaged"])
def test_garbage(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "garbage"
    match kind:
        case "empty":
            path.mkdir()
        case "text":
            path.write_text("hello")
        case "damaged":
            path.mkdir()
            (path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert run(["inspect", str(path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("found:") == 1


def test_what_people_and_programs_see(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = save(tmp_path, anchor_weights())
    name = "Evil\x1b[2J\nparameters: 0"
    (folder / "config.json").write_text(json.dumps({"architectures": [name]}))
    assert run(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "model: Evil\\x1b[2J\\nparameters: 0\n" in printed
    assert printed.count("\nparameters: ") == 1
    assert f"dtypes: float32 ({NUMBERS:,} in 6)" in printed
    assert run(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == name


def test_what_is_nowhere_may_be_meant_for_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a model of the hub is written org/name@revision"):
        inspect(tmp_path / "org/name")
