"""What a checkpoint's config.json says of the shapes of its layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offaxis.checkpoints.trust import read_object

_NAME = "config.json"
_NESTED = ("text_config", "llm_config")


@dataclass(frozen=True)
class Model:
    """The facts that tell how fused tensors are laid out; None where the file does not say.

    Attributes:
        kind: `model_type` of the language model, as transformers names it.
        whole: `model_type` of the whole model, another one where it also sees or hears.
        hidden: Width of the residual stream.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        head_dim: Width of one head.
        tied: Whether the head is the embedding.
    """

    kind: str
    whole: str
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    tied: bool | None


def model_at(path: Path) -> Model | None:
    """Read the config beside a checkpoint's weights; None where there is none that names a model.

    Raises:
        CheckpointError: If the file is no JSON object, or larger than any config.
    """
    for name in (_NAME, f"huggingface/{_NAME}"):
        if (path / name).is_file():
            return _model(read_object(path, name))
    return None


def _model(config: Mapping[str, Any]) -> Model | None:
    inner = next((config[name] for name in _NESTED if isinstance(config.get(name), dict)), config)
    whole = config.get("model_type")
    kind = inner.get("model_type", whole)
    if not isinstance(kind, str) or not isinstance(whole, str):
        return None
    hidden = _count(inner, "hidden_size", "n_embd")
    heads = _count(inner, "num_attention_heads", "n_head")
    each = hidden // heads if hidden and heads else None
    tied = config.get("tie_word_embeddings", inner.get("tie_word_embeddings"))
    return Model(
        kind=kind,
        whole=whole,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(kind, inner, heads),
        head_dim=_count(inner, "head_dim") or each,
        tied=tied if isinstance(tied, bool) else None,
    )


def _kv_heads(kind: str, config: Mapping[str, Any], heads: int | None) -> int | None:
    """Heads of keys and values; Falcon says by other switches when they are one for all."""
    if kind == "falcon" and not config.get("new_decoder_architecture"):
        return 1 if config.get("multi_query", True) else heads
    return _count(config, "num_key_value_heads", "num_kv_heads") or heads


def _count(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of the values that is a positive whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)
