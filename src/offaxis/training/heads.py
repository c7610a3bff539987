"""From `transformers` models to what the loss reads: last hidden states and the output matrix."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from offaxis.errors import CheckpointError
from offaxis.objectives.base import Head, TokenBatch
from offaxis.objectives.loss import token_facts
from offaxis.training.rows import Rows, attention_bias

_FACTS = ("logprobs_BT", "teacher_logprobs_BT", "entropy_BT", "divergence_BT")


def head_of(model: nn.Module, rows: Rows) -> Head:
    """What makes the logits that predict `rows.batch.tokens_BT`, documents of a row kept apart.

    The model's own forward pass runs, wrappers of distributed training included; only its output
    layer hands on what it is given.
    """
    mask = None
    if rows.document_ids_BS is not None:
        mask = attention_bias(rows.document_ids_BS[:, :-1])
    layer = _output_layer(model)
    with _passed_through(layer):
        output = model(
            input_ids=rows.input_ids_BS[:, :-1],
            position_ids=rows.position_ids_BS[:, :-1],
            attention_mask=mask,
            use_cache=False,
        )
    return Head(output.logits, layer.weight, layer.bias)


@torch.no_grad()
def fixed_head(model: PreTrainedModel, rows: Rows) -> Head:
    """The same of a model that is not trained."""
    return head_of(model, rows)


def shared(heads: Mapping[str, Head], num_ids: int | None = None) -> dict[str, Head]:
    """Heads on the entries that all vocabularies have, at most `num_ids`: no padding."""
    widths = [len(head.weight_VD) for head in heads.values()]
    vocabulary = min([*widths, *([] if num_ids is None else [num_ids])])
    return {name: head.narrowed(vocabulary) for name, head in heads.items()}


@torch.no_grad()
def facts_of(
    model: PreTrainedModel,
    rows: Rows,
    teacher: PreTrainedModel | None,
    num_ids: int | None = None,
) -> TokenBatch:
    """The batch with what student and teacher make of its tokens, the student as it samples."""
    was_training = model.training
    model.eval()
    models = {"student": model} | ({} if teacher is None else {"teacher": teacher})
    heads = shared({name: head_of(each, rows) for name, each in models.items()}, num_ids)
    model.train(was_training)
    return token_facts(heads["student"], rows.batch, teacher=heads.get("teacher"))


def joined(batch: TokenBatch, parts: Sequence[TokenBatch]) -> TokenBatch:
    """The batch with the facts of its parts."""
    found: dict[str, Any] = {}
    for name in _FACTS:
        facts = [fact for fact in (getattr(part, name) for part in parts) if fact is not None]
        if facts:
            found[name] = torch.cat(facts)
    return replace(batch, **found)


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model as it is now, never to be trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def check_head(model: PreTrainedModel, where: str) -> None:
    """Refuse a model that does more to its logits than to multiply hidden states with a matrix.

    Raises:
        CheckpointError: If the model scales or caps them, or has no such matrix.
    """
    expected = "a model whose logits are its last hidden states times its output matrix"
    do = "choose a model that neither scales nor caps its logits"
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise CheckpointError(where, expected=expected, found="no such matrix", do=do)
    ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    batch = TokenBatch(ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.bool))
    rows = Rows(ids, torch.arange(4, device=model.device)[None], None, batch)
    logits = head_of(model, rows).logits()
    own = model(input_ids=ids[:, :-1], use_cache=False).logits
    gap = float((logits - own).abs().max())
    if not gap <= 1e-2 * float(own.abs().max()):
        raise CheckpointError(where, expected=expected, found=f"a difference of {gap:.2g}", do=do)


def _output_layer(model: nn.Module) -> nn.Linear:
    """The output layer of a model, below the wrappers of distributed training."""
    inner: Any = model
    while not hasattr(inner, "get_output_embeddings"):
        inner = inner.module
    layer: nn.Linear = inner.get_output_embeddings()
    return layer


@contextmanager
def _passed_through(layer: nn.Module) -> Iterator[None]:
    """Let a layer hand on its input for a while."""
    own = vars(layer).get("forward")
    layer.forward = lambda hidden: hidden
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            layer.forward = own
