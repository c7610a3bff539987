"""Checkpoint folders with planted weights, made in a moment."""

from pathlib import Path

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]

SHAPES = {
    "model.embed_tokens.weight": (24, 32),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.self_attn.k_proj.weight": (16, 32),
    "model.layers.1.mlp.up_proj.weight": (80, 32),
    "model.layers.1.mlp.down_proj.weight": (32, 80),
    "model.norm.weight": (32,),
}


def anchor_weights(seed: int = 0) -> Weights:
    g = torch.Generator().manual_seed(seed)
    return {name: 0.05 * torch.randn(shape, generator=g) for name, shape in SHAPES.items()}


def moved(weights: Weights, size: float, seed: int = 1, rank: int = 2) -> Weights:
    """Weights after an update of `size` times their norm, of low rank plus a little noise."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, W in weights.items():
        if W.ndim == 2:
            U, V = (torch.linalg.qr(torch.randn(n, rank, generator=g)).Q for n in W.shape)
            noise = 0.2 * torch.randn(W.shape, generator=g) / W.numel() ** 0.5
            D = U @ V.T / rank**0.5 + noise
            found[name] = W + size * W.norm() * D
        else:
            found[name] = W.clone()
    return found


def save(path: Path, weights: Weights, dtype: torch.dtype = torch.float32) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    held = {name: W.to(dtype).contiguous() for name, W in weights.items()}
    save_file(held, path / "model.safetensors", {"format": "pt"})
    return path


def save_run(
    path: Path,
    sizes: dict[int, float],
    dtype: torch.dtype = torch.float32,
    anchor: Weights | None = None,
) -> Path:
    """A folder of `checkpoint-N`, checkpoint-0 being the anchor."""
    anchor = anchor_weights() if anchor is None else anchor
    save(path / "checkpoint-0", anchor, dtype)
    for step, size in sizes.items():
        save(path / f"checkpoint-{step}", moved(anchor, size), dtype)
    return path
