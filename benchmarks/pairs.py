"""Made weights with the scales, the spectrum and the rounding of a language model's."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

RL = 1.5e-5
"""Root mean square of the updates of reinforcement learning with verifiable rewards."""

_BULK, _SCALES, _DECAY = 0.02, 0.3, -0.55
_UPDATE_RANK, _UPDATE_DECAY = 16, -0.7


class Pair(NamedTuple):
    """The anchor's matrix and a checkpoint's, as their bf16 files hold them."""

    anchor: Tensor
    current: Tensor

    @property
    def delta(self) -> Tensor:
        """The update in float32, which holds most of its entries without rounding."""
        return self.current.float() - self.anchor.float()


def weights(shape: tuple[int, int], g: Generator) -> Tensor:
    """Float32 weights: Gaussian with log-normal row and column scales, and as much in spikes.

    The spikes follow a power law over an eighth of the dimension.
    """
    m, n = shape
    rows, columns = (
        torch.exp(_SCALES * torch.randn(size, generator=g)) for size in ((m, 1), (1, n))
    )
    W = _BULK * torch.randn(shape, generator=g) * rows * columns
    spikes = _low_rank(shape, max(1, min(shape) // 8), _DECAY, g)
    return W.add_(spikes, alpha=float(W.norm() / spikes.norm()))


def step(shape: tuple[int, int], g: Generator, rms: float = RL) -> Tensor:
    """A float32 update: rank 16, and as much energy in a dense Gaussian part."""
    low = _low_rank(shape, min(_UPDATE_RANK, *shape), _UPDATE_DECAY, g)
    size = rms * math.sqrt(low.numel() / 2)
    dense = torch.randn(shape, generator=g).mul_(rms / math.sqrt(2))
    return dense.add_(low, alpha=size / float(low.norm()))


def _low_rank(shape: tuple[int, int], rank: int, decay: float, g: Generator) -> Tensor:
    m, n = shape
    sizes = torch.arange(1, rank + 1).pow(decay)
    return (torch.randn(m, rank, generator=g) * sizes) @ torch.randn(rank, n, generator=g)


def pair(shape: tuple[int, int], seed: int = 0) -> Pair:
    """An anchor on the bf16 grid, and what a bf16 file keeps of a step from it."""
    g = Generator().manual_seed(seed)
    anchor = weights(shape, g).bfloat16()
    return Pair(anchor, (anchor.float() + step(shape, g)).bfloat16())


def save_model(folder: Path, shapes: Mapping[str, tuple[int, ...]], checkpoints: int) -> list[Path]:
    """Write an anchor and its checkpoints; return their folders, the anchor's first.

    What is no matrix is all ones, and stays.
    """
    held = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        g = Generator().manual_seed(seed)
        held[name] = (weights(shape, g) if len(shape) == 2 else torch.ones(shape)).bfloat16()
    folders = []
    for index in range(checkpoints + 1):
        path = folder / ("anchor" if index == 0 else f"run/checkpoint-{index}")
        path.mkdir(parents=True)
        g = Generator().manual_seed(10_000 + index)
        moved = dict(held)
        for name, shape in shapes.items():
            if index and len(shape) == 2:
                moved[name] = (held[name].float() + index * step(shape, g)).bfloat16()
        save_file(moved, path / "model.safetensors")
        folders.append(path)
    return folders


def layers(count: int, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """A model of one matrix a layer."""
    return {f"model.layers.{i}.mlp.up_proj.weight": shape for i in range(count)}
