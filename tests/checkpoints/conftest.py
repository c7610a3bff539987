"""One model in every format, saved by the libraries that the formats belong to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.checkpoints import processes
from tests.models import Weights, save, save_run

from offaxis.checkpoints.safetensors_folder import SafetensorsFolder


def odd_weights() -> Weights:
    """Shapes that two processes do not split evenly, or not at all."""
    g = torch.Generator().manual_seed(3)
    shapes = {
        "model.layers.0.self_attn.q_proj.weight": (7, 5),
        "model.layers.0.mlp.experts.up_proj": (3, 4, 6),
        "model.layers.1.mlp.gate.weight": (1, 6),
        "model.norm.weight": (5,),
        "model.rotary.inv_freq": (4,),
    }
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


def whole(folder: Path) -> Weights:
    reader = SafetensorsFolder(folder)
    return {name: reader.read(name) for name in reader.tensors()}


@pytest.fixture(scope="session")
def saved(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The folder that `processes` describes, with other formats written here."""
    return once("saved", save_all)


def save_all(out: Path) -> None:
    plain = save_run(out / "plain", {5: 1e-3, 10: 3e-2})
    save(out / "odd", odd_weights(), torch.bfloat16)
    save_by_processes(out)
    for step in processes.STEPS:
        weights = whole(plain / f"checkpoint-{step}")
        alone = out / "verl-alone" / f"global_step_{step}" / "actor"
        save_bin(out / "bin" / f"checkpoint-{step}", weights, shards=step // 5)
        save_state(alone / "model_world_size_1_rank_0.pt", weights)
        save_universal(out / "universal" / f"global_step{step}_universal", weights)
    verl = out / "verl"
    (verl / "latest_checkpointed_iteration.txt").write_text("10")
    (verl / "global_step_5" / "actor" / "huggingface").mkdir()
    (verl / "global_step_5" / "actor" / "fsdp_config.json").write_text('{"world_size": 2}')


def save_by_processes(out: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, processes.__file__, str(rank), str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        said = rank.communicate(timeout=300)[1]
        assert rank.returncode == 0, said


def save_state(file: Path, state: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return file


def save_bin(folder: Path, weights: Weights, shards: int = 1) -> Path:
    """The layout that transformers wrote before its version 5, which writes it no more."""
    if shards == 1:
        save_state(folder / "pytorch_model.bin", weights)
        return folder
    files = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
    home = {name: files[i % shards] for i, name in enumerate(weights)}
    for file in files:
        save_state(folder / file, {n: W for n, W in weights.items() if home[n] == file})
    index = {"metadata": {"total_size": 0}, "weight_map": home}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def save_universal(folder: Path, weights: Weights, *, is_stage_3: bool = False) -> Path:
    """The layout that DeepSpeed's ds_to_universal.py documents, written by hand."""
    for name, W in weights.items():
        held = W.reshape(-1).clone() if is_stage_3 else {"param": W, "cat_dim": 0}
        save_state(folder / "zero" / name / "fp32.pt", held)
        save_state(folder / "zero" / name / "exp_avg.pt", torch.zeros(1))
    shapes = [{name: W.shape for name, W in weights.items()}]
    save_state(folder / "mp_rank_00_model_states.pt", {"param_shapes": shapes})
    return folder
