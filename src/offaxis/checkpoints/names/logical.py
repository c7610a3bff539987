"""What a logical matrix is called, however it is stored."""

import re

from offaxis.checkpoints.names.wrappers import unwrapped

_PARTS = {"qkv_proj": ("q", "k", "v"), "gate_up_proj": ("gate", "up")}
_STACK = re.compile(r"(.*\.)?experts\.(\w+)")
_EXPERT = re.compile(r"expert\.(\d+)(?:\.(gate|up))?")
_MIXTRAL = re.compile(r"\bblock_sparse_moe\.(?:(experts\.\d+\.)w([123])\b)?")
_OF_MIXTRAL = {"1": "gate_proj", "2": "down_proj", "3": "up_proj"}


def split_name(name: str, view: str) -> str:
    """The name that a view of a fused layer has where the layer is stored in parts.

    Args:
        name: The tensor's, without wrappers.
        view: The view's label.

    Example:
        >>> split_name("layers.0.qkv_proj.weight", "q"), split_name("layers.0.c_attn.weight", "q")
        ('layers.0.q_proj.weight', 'layers.0.c_attn.weight[q]')
    """
    if not view:
        return name
    front, dot, leaf = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")
    if view in _PARTS.get(leaf, ()):
        return f"{front}{dot}{view}_proj{name.removeprefix(front + dot + leaf)}"
    return f"{name}[{view}]"


def key_of(tensor: str, view: str) -> str:
    """The name under which a view's random numbers are drawn.

    It is the same however the matrix is stored (wrapped, fused, stacked), so that the nulls of the
    same weights are the same too; of a tensor of its own it is the name.

    Example:
        >>> key_of("mlp.experts.gate_up_proj", "expert.3.up"), key_of("module.lm_head.weight", "")
        ('mlp.experts.3.up_proj.weight', 'lm_head.weight')
    """
    name = split_name(unwrapped(tensor), view)
    stack, expert = _STACK.fullmatch(unwrapped(tensor)), _EXPERT.fullmatch(view)
    if stack and expert:
        front, leaf = stack[1] or "", stack[2]
        number, part = expert.groups()
        matrix, kind = leaf.removesuffix("_bias"), "bias" if leaf.endswith("_bias") else "weight"
        return f"{front}experts.{number}.{f'{part}_proj' if part else matrix}.{kind}"
    return _MIXTRAL.sub(lambda m: "mlp." + (m[1] + _OF_MIXTRAL[m[2]] if m[1] else ""), name)
