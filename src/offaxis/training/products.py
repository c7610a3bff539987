"""Products in bfloat16 by way of float32, on processors without quick instructions for them.

There torch's own take two to ten times as long as those in float32. The product of two numbers in
bfloat16 is exact in float32, in which sums are taken with such instructions, too: factors are
rounded to bfloat16, multiplied in float32, and what comes out is rounded. Values and gradients
differ from torch's by the order of sums, and those of fused attention by what torch rounds between
its two products. What is kept for a backward pass is held in float32.
"""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from offaxis.training.processor import has, is_amd

Function = Callable[..., Any]

_X86 = ("x86_64", "AMD64")

_PRODUCTS: frozenset[Function] = frozenset(
    {
        *(torch.mm, torch.bmm, torch.matmul, torch.addmm, torch.baddbmm),
        *(Tensor.mm, Tensor.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__),
        *(Tensor.addmm, Tensor.baddbmm),
        *(nn.functional.linear, nn.functional.scaled_dot_product_attention),
    }
)
_OF_GROUPS: frozenset[Function] = frozenset({torch._grouped_mm})  # not autocast's to lower


@cache
def has_bfloat16() -> bool:
    """Whether torch multiplies in bfloat16 more quickly than in float32 on this processor.

    Intel's instructions for it outside AMX are half as quick as those for float32.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in _X86:
        return has("amx_bf16") or (has("avx512_bf16") and is_amd())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bfloat16_products(*, wanted: bool) -> AbstractContextManager[object]:
    """Let products in bfloat16 on the CPU be as quick as this processor can make them.

    Args:
        wanted: Whether there will be any. What follows every call of torch has its price: small
            models generate at half their speed.
    """
    return ByFloat32() if wanted and not has_bfloat16() else nullcontext()


class ByFloat32(TorchFunctionMode):
    """Inside, products in bfloat16 on the CPU are taken in float32 and rounded."""

    def __torch_function__(
        self,
        func: Function,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as the function answers
        named = kwargs or {}
        if not _is_lowered(func, args, named):
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            exact: Tensor = func(
                *map(_rounded, args), **{name: _rounded(each) for name, each in named.items()}
            )
            return exact.bfloat16()


def _is_lowered(func: Function, args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether torch would multiply in bfloat16, on the CPU: tensors of other kinds are its own."""
    if (func not in _PRODUCTS and func not in _OF_GROUPS) or "out" in named:
        return False
    factors = [each for each in (*args, *named.values()) if _is_floating(each)]
    if any(not each.is_cpu or type(each) not in (Tensor, nn.Parameter) for each in factors):
        return False
    formats = {each.dtype for each in factors}
    if func in _PRODUCTS and torch.is_autocast_enabled("cpu"):
        is_narrow = torch.get_autocast_dtype("cpu") == torch.bfloat16
        return is_narrow and bool(formats) and formats <= {torch.bfloat16, torch.float32}
    return formats == {torch.bfloat16}


def _rounded(value: object) -> object:
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return value
    return value.bfloat16().float()


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
