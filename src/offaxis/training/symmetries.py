"""A model that computes the same from other weights: the intervention on where updates fall.

If updates follow the anchor's geometry, those of a model whose values are rotated, or whose heads
are reordered, fall on other coordinates; if they follow the data alone, nothing is different.

Source: arXiv:2511.08567, appendix D.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from offaxis.engine.seeds import generator_for
from offaxis.errors import CheckpointError, ResultsError, UsageError
from offaxis.linalg.symmetries import (
    Attention,
    random_rotation,
    with_heads_permuted,
    with_values_rotated,
)
from offaxis.recipe import Precision
from offaxis.training.models import open_model, save_model

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def disguise(
    model_folder: Path, out: Path, layers: Sequence[int], *, permutes: bool, seed: int
) -> dict[str, Any]:
    """Write a model that computes the same with other attention weights.

    Args:
        model_folder: The model.
        out: The folder of the new one, which must not exist yet.
        layers: The layers whose values are rotated; all where none is named.
        permutes: Whether their key-value heads are reordered, too.
        seed: The key of the draws.

    Returns:
        The folder, the layers and the seed.

    Raises:
        CheckpointError: If the model cannot be opened, or its attention is of another kind.
        UsageError: If it has no such layer.
        ResultsError: If `out` exists or cannot be written.
    """
    if out.exists():
        raise ResultsError(
            str(out),
            expected="no such folder yet",
            found="something there",
            do="choose another --out, or remove it",
        )
    model, tokenizer = open_model(model_folder, Precision())
    found = _attentions(model, model_folder)
    chosen = list(layers) or sorted(found)
    unknown = [layer for layer in chosen if layer not in found]
    if unknown:
        raise UsageError(
            f"--layer {unknown[0]}",
            expected=f"a layer from 0 to {max(found)}",
            found=str(unknown[0]),
            do="choose one of the model's layers",
        )
    for layer in chosen:
        disguise_layer(found[layer], layer, permutes=permutes, seed=seed)
    save_model(model, tokenizer, out)
    return {"model": str(out), "layers": chosen, "permuted": permutes, "seed": seed}


@torch.no_grad()
def disguise_layer(attention: nn.Module, layer: int, *, permutes: bool, seed: int) -> None:
    """Rotate the values of one layer in place, and reorder its key-value heads."""
    d: int = getattr(attention, "head_dim")  # noqa: B009 - a module's attributes have no types
    held = Attention(*(_projection(attention, name).weight for name in _PROJECTIONS))
    biases = {f"{name[0]}_bias": _projection(attention, name).bias for name in _PROJECTIONS[:3]}
    held = held._replace(**biases)
    R = random_rotation(d, generator_for("disguise", seed, layer)).to(held.v.device)
    found = with_values_rotated(held, R)
    if permutes:
        heads = held.k.shape[0] // d
        found = with_heads_permuted(found, _moved(heads, generator_for("order", seed, layer)))
    for old, new in zip(held, found, strict=True):
        if old is not None and new is not None:
            old.copy_(new)


def _moved(heads: int, generator: torch.Generator) -> list[int]:
    """A random order of heads in which none stays, unless there is only one."""
    order: list[int] = torch.randperm(heads, generator=generator).tolist()
    place = {head: order[(i + 1) % heads] for i, head in enumerate(order)}
    return [place[head] for head in range(heads)]


def _attentions(model: PreTrainedModel, folder: Path) -> dict[int, nn.Module]:
    """The attention of every layer.

    Raises:
        CheckpointError: If one is not made of four linear layers, as Qwen's and Llama's are.
    """
    decoder: Any = model.get_decoder()
    found = {i: getattr(layer, "self_attn", None) for i, layer in enumerate(decoder.layers)}
    for i, attention in found.items():
        is_plain = attention is not None and hasattr(attention, "head_dim")
        if not is_plain or not all(hasattr(attention, name) for name in _PROJECTIONS):
            raise CheckpointError(
                str(folder),
                expected=f"attention of {', '.join(_PROJECTIONS)}",
                found=f"{type(attention).__name__} in layer {i}",
                do="choose a model of the Llama or Qwen kind",
            )
    return {i: attention for i, attention in found.items() if attention is not None}


def _projection(attention: nn.Module, name: str) -> nn.Linear:
    layer: nn.Linear = getattr(attention, name)
    return layer
