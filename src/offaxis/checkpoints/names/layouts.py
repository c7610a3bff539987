"""Which matrices a fused tensor holds, by its name, its shape and the model's config."""

from typing import NamedTuple

from offaxis.checkpoints.names.model import Model
from offaxis.checkpoints.pieces import Rows

_CONV1D = {"gpt2": ("c_attn", "c_proj", "c_fc"), "openai-gpt": ("c_attn", "c_proj", "c_fc")}
_STACKED_QKV = {"phi3": "qkv_proj", "phi4_multimodal": "qkv_proj"}
_GROUPED_QKV = ("gpt_neox", "bloom", "falcon")
_INTERLEAVED_EXPERTS = ("gpt_oss",)
_TRANSPOSED_EXPERTS = ("gpt_oss", "llama4", "llama4_text")
_EITHER_WAY_EXPERTS = ("qwen3_vl_moe", "qwen3_vl_moe_text")

FUSED = ("qkv_proj", "c_attn", "query_key_value", "gate_up_proj", "Wqkv", "wqkv", "W_pack")
"""Names of tensors that hold several matrices, where the config says how they lie."""


class Part(NamedTuple):
    """One matrix within a fused one: its label, what it does, its rows as outputs."""

    view: str
    role: str
    rows: Rows | None


class Layout(NamedTuple):
    """How the matrices of a tensor lie in it; no parts where it is one matrix."""

    transposed: bool
    parts: tuple[Part, ...]


PLAIN = Layout(transposed=False, parts=())


def layout_of(leaf: str, shape: tuple[int, ...], model: Model | None) -> Layout:
    """Tell how a tensor of one or two axes is laid out.

    Args:
        leaf: The last part of its name, without `weight` or `bias`.
        shape: Its shape; a vector is laid out as the rows of its matrix.
        model: What the config says; without it only `gate_up_proj` is known.
    """
    kind = model.kind if model is not None else ""
    transposed = len(shape) == 2 and leaf in _CONV1D.get(kind, ())
    outputs = shape[-1] if transposed else shape[0]
    if leaf == "gate_up_proj":
        return Layout(transposed, _halves(outputs))
    if model is None:
        return PLAIN
    return Layout(transposed, _attention(leaf, outputs, model))


def experts_layout(leaf: str, shape: tuple[int, ...], model: Model | None) -> Layout:
    """Tell how one expert of a stack is laid out, by which of its axes has the residual's width.

    Where the config does not tell, or both axes have that width and the model is stored either
    way, an expert is taken as it is stored.

    Args:
        leaf: The last part of the stack's name.
        shape: The two axes of one expert, or the one of its bias.
        model: What the config says.
    """
    if model is None:
        return PLAIN
    if leaf == "gate_up_proj_bias":
        return Layout(transposed=False, parts=_gate_and_up(shape[0], model))
    if leaf not in ("gate_up_proj", "down_proj"):
        return PLAIN
    first, second = (width == model.hidden for width in shape)
    if (not first and not second) or (first and second and model.kind in _EITHER_WAY_EXPERTS):
        return PLAIN
    outputs_last = first if leaf == "gate_up_proj" else second
    transposed = outputs_last if first != second else model.kind in _TRANSPOSED_EXPERTS
    if leaf == "down_proj":
        return Layout(transposed, ())
    return Layout(transposed, _gate_and_up(shape[1] if transposed else shape[0], model))


def _gate_and_up(outputs: int, model: Model) -> tuple[Part, ...]:
    interleaved = model.kind in _INTERLEAVED_EXPERTS
    return _halves(outputs, period=2 if interleaved else outputs)


def _halves(outputs: int, period: int | None = None) -> tuple[Part, ...]:
    """Gate and up, one after the other, or row by row in turn."""
    block = period or outputs
    if outputs % 2:
        return ()
    return (
        Part("gate", "gate_proj", Rows(0, block // 2, block)),
        Part("up", "up_proj", Rows(block // 2, block // 2, block)),
    )


def _attention(leaf: str, outputs: int, model: Model) -> tuple[Part, ...]:
    """Queries, keys and values, where the model's sizes give just these rows."""
    heads, kv_heads, each = model.heads, model.kv_heads, model.head_dim
    if not heads or not kv_heads or not each or heads % kv_heads:
        return ()
    blocks = 1
    if leaf == _STACKED_QKV.get(model.kind):
        sizes = (heads * each, kv_heads * each, kv_heads * each)
    elif leaf == "c_attn" and model.kind in _CONV1D:
        sizes = (heads * each, heads * each, heads * each)
    elif leaf == "query_key_value" and model.kind in _GROUPED_QKV:
        blocks = kv_heads if model.kind == "falcon" else heads
        sizes = (heads // blocks * each, each, each)
    else:
        return ()
    block = sum(sizes)
    if blocks * block != outputs:
        return ()
    starts = (0, sizes[0], sizes[0] + sizes[1])
    return tuple(
        Part(view, f"{view}_proj", Rows(start, size, block))
        for view, start, size in zip("qkv", starts, sizes, strict=True)
    )
