"""Adapters of planted factors in PEFT's layout, made in a moment."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.models import SHAPES

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]

ADAPTED = {
    "model.layers.0.self_attn.q_proj.weight": 3,
    "model.layers.1.mlp.up_proj.weight": 5,
    "model.layers.1.mlp.down_proj.weight": 3,
}
"""The tensors that are adapted, and their ranks."""


def factors(step: int, size: float = 0.02) -> Factors:
    """A and B of every adapted tensor, which move on from step to step."""
    found: Factors = {}
    for place, (name, rank) in enumerate(ADAPTED.items()):
        rows, cols = SHAPES[name]
        g = torch.Generator().manual_seed(100 + place)
        A, B = torch.randn(rank, cols, generator=g), torch.zeros(rows, rank)
        for _ in range(step):
            A = A + 0.2 * torch.randn(rank, cols, generator=g)
            B = B + size * torch.randn(rows, rank, generator=g)
        found[name] = A, B
    return found


def save_adapter(path: Path, held: Factors, **settings: Any) -> Path:
    """An adapter of rank 3 and scale 2, but for `up_proj` of rank 5 and scale 0.4."""
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "r": 3,
        "lora_alpha": 6,
        "rank_pattern": {"up_proj": 5},
        "alpha_pattern": {r"layers\.1\.mlp\.up_proj": 2},
        "base_model_name_or_path": "/etc/passwd",
    }
    (path / "adapter_config.json").write_text(json.dumps(config | settings))
    tensors = {}
    for name, (A, B) in held.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors |= {f"{module}.lora_A.weight": A, f"{module}.lora_B.weight": B}
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        path / "adapter_model.safetensors",
    )
    return path


def dense(held: Factors) -> dict[str, torch.Tensor]:
    """The updates in float64."""
    scales = {name: 0.4 if "up_proj" in name else 2.0 for name in held}
    return {name: scales[name] * (B.double() @ A.double()) for name, (A, B) in held.items()}
