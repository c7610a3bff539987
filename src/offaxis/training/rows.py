"""Texts to rows of tokens: packing documents so that they do not see each other.

Shapes: B rows, S tokens of a row as the model reads it, T = S - 1 positions that predict a token.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from offaxis.objectives.base import Component, Streams, TokenBatch


@dataclass(frozen=True)
class Rows:
    """What the model reads, and which of the predicted tokens carry a loss.

    Attributes:
        input_ids_BS: Tokens, padded on the right.
        position_ids_BS: Positions, counted from zero in every document.
        document_ids_BS: The document of each token in its row, or None where a row is one document.
        batch: The predicted tokens, `input_ids_BS[:, 1:]`, with their mask.
        streams: How much each token weighs, once an objective has said so.
        components: The same of each objective that a mixture is made of.
    """

    input_ids_BS: Int[Tensor, "B S"]
    position_ids_BS: Int[Tensor, "B S"]
    document_ids_BS: Int[Tensor, "B S"] | None
    batch: TokenBatch
    streams: Streams | None = None
    components: Mapping[str, Component] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Rows":
        """The same rows on the device of the model that reads them."""
        documents = self.document_ids_BS
        return Rows(
            self.input_ids_BS.to(device),
            self.position_ids_BS.to(device),
            None if documents is None else documents.to(device),
            self.batch.to(device),
            None if self.streams is None else self.streams.map(lambda s: s.to(device)),
            _each(self.components, lambda streams: streams.map(lambda s: s.to(device))),
        )

    def part(self, rows: slice) -> "Rows":
        """Some of the rows; rewards are kept only where the rows are whole groups."""
        return Rows(
            self.input_ids_BS[rows],
            self.position_ids_BS[rows],
            None if self.document_ids_BS is None else self.document_ids_BS[rows],
            self.batch.part(rows),
            None if self.streams is None else self.streams.part(rows),
            _each(self.components, lambda streams: streams.part(rows)),
        )

    def split(self, num_parts: int) -> list[slice]:
        """Parts of about as many rows each, groups of rollouts kept whole; some may be empty."""
        rewards_PG = self.batch.rewards_PG
        group = rewards_PG.shape[1] if rewards_PG is not None else 1
        num_groups = len(self.input_ids_BS) // group
        edges = [group * (num_groups * i // num_parts) for i in range(num_parts + 1)]
        return [slice(a, b) for a, b in pairwise(edges)]

    def state_dict(self) -> dict[str, Any]:
        """The content by name, without streams: they are made of it anew."""
        batch = {f.name: getattr(self.batch, f.name) for f in fields(self.batch)}
        return {
            "input_ids_BS": self.input_ids_BS,
            "position_ids_BS": self.position_ids_BS,
            "document_ids_BS": self.document_ids_BS,
            "batch": batch,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Rows":
        """The rows that gave a state."""
        return cls(**{**state, "batch": TokenBatch(**state["batch"])})


def _each(
    components: Mapping[str, Component], change: Callable[[Streams], Streams]
) -> dict[str, Component]:
    """The components with their streams changed."""
    return {name: c._replace(streams=change(c.streams)) for name, c in components.items()}


class Encoded(NamedTuple):
    """A document as token ids, and how many of the first are only read."""

    ids: list[int]
    num_read: int


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]]) -> list[Encoded]:
    """Prompts and answers as token ids; without a prompt a document is learned from its start."""
    prompts = tokenizer([p for p, _ in texts], add_special_tokens=False)["input_ids"]
    answers = tokenizer([a for _, a in texts], add_special_tokens=False)["input_ids"]
    # The first token of a row has nothing before it to be predicted from.
    return [Encoded([*p, *a], max(len(p), 1)) for p, a in zip(prompts, answers, strict=True)]


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills rows: nothing reads it or learns it, so without one any will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in known if token is not None), 0)


def packed(documents: Sequence[Encoded], padding: int) -> Rows:
    """Rows as wide as the longest document, each filled with documents as far as they fit.

    First fit, the longest first: a row of short documents costs no more than its tokens.
    """
    width = max(len(d.ids) for d in documents)
    rows: list[list[Encoded]] = []
    room: list[int] = []
    for document in sorted(documents, key=lambda d: -len(d.ids)):
        length = len(document.ids)
        fitting = (b for b, left in enumerate(room) if left >= length)
        b = next(fitting, len(rows))
        if b == len(rows):
            rows.append([])
            room.append(width)
        rows[b].append(document)
        room[b] -= length
    return _as_rows(rows, width, padding)


def _as_rows(rows: Sequence[Sequence[Encoded]], width: int, padding: int) -> Rows:
    """Lay the documents of each row side by side."""
    ids = torch.full((len(rows), width), padding)
    positions = torch.zeros_like(ids)
    document_ids = torch.full_like(ids, -1)
    is_learned = torch.zeros_like(ids, dtype=torch.bool)
    for b, row in enumerate(rows):
        begin = 0
        for number, (tokens, num_read) in enumerate(row):
            end = begin + len(tokens)
            ids[b, begin:end] = torch.tensor(tokens)
            positions[b, begin:end] = torch.arange(end - begin)
            document_ids[b, begin:end] = number
            is_learned[b, begin + num_read : end] = True
            begin = end
    is_packed = any(len(row) > 1 for row in rows)
    batch = TokenBatch(ids[:, 1:], is_learned[:, 1:])
    # Padding on the right of a single document is behind every token that matters.
    return Rows(ids, positions, document_ids if is_packed else None, batch)


def attention_bias(document_ids_BS: Int[Tensor, "B S"]) -> Float[Tensor, "B 1 S S"]:
    """Zero where a token may look (its own document, up to itself), the least float elsewhere."""
    same = document_ids_BS[:, :, None] == document_ids_BS[:, None, :]
    allowed = same & torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()
    bias = torch.full(allowed.shape, torch.finfo(torch.float32).min, device=same.device)
    return bias.masked_fill(allowed, 0.0)[:, None]
