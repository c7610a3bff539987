"""Heads that are the embedding: one matrix, which must not be measured twice."""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.names.model import Model
from offaxis.checkpoints.names.wrappers import unwrapped

HEADS = ("lm_head", "embed_out", "output")
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")


class Ends(NamedTuple):
    """The stored names of a model's embedding and head; None where there is not exactly one."""

    embedding: str | None
    head: str | None


def ends_of(names: Iterable[str]) -> Ends:
    """Find the embedding and the head of a checkpoint by their names."""
    leaves: dict[str, list[str]] = {}
    for name in names:
        parts = unwrapped(name).split(".")
        if len(parts) > 1 and parts[-1] == "weight":
            leaves.setdefault(parts[-2], []).append(name)
    return Ends(_only(leaves, EMBEDDINGS), _only(leaves, HEADS))


def _only(leaves: dict[str, list[str]], wanted: Iterable[str]) -> str | None:
    found = [name for leaf in wanted for name in leaves.get(leaf, ())]
    return found[0] if len(found) == 1 else None


def is_tied(reader: CheckpointReader, ends: Ends, model: Model | None) -> bool:
    """Whether a stored head is the stored embedding, value for value.

    Three rows tell most heads apart; only where they are equal is the rest read, and nothing is
    where the config says that the model does not tie them.
    """
    embedding, head = ends
    if embedding is None or head is None or (model is not None and model.tied is False):
        return False
    tensors = reader.tensors()
    first, second = tensors[embedding], tensors[head]
    if first[1:] != second[1:] or 0 in first.shape or len(first.shape) != 2:
        return False
    for row in sorted({0, first.shape[0] // 2, first.shape[0] - 1}):
        if not torch.equal(reader.read(embedding, row), reader.read(head, row)):
            return False
    return torch.equal(reader.read(embedding), reader.read(head))
