"""Linear layers in the whole width of the processor.

What torch uses for products in float32, MKL, runs at half the width of AMD's processors with
AVX-512. What it uses for those in bfloat16, oneDNN, does not.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from offaxis.training.processor import is_amd

# Below this number of multiplications oneDNN's call costs more than its product saves.
_WORTH = 2**21


def use_full_width(model: nn.Module) -> None:
    """Let the linear layers of a model use the whole width of the processor.

    Values agree to the rounding of float32. Elsewhere than on such processors nothing changes.
    """
    if is_narrowed():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = FullWidthLinear


@cache
def is_narrowed() -> bool:
    """Whether torch's products in float32 use half of this processor, and oneDNN's all of it.

    Known of Linux alone.
    """
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_wide and torch.backends.mkldnn.is_available() and is_amd()


class FullWidthLinear(nn.Linear):
    """`nn.Linear` whose large products in float32 are oneDNN's."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        if _is_plain(input, self.weight) and input.numel() * len(self.weight) >= _WORTH:
            product: Tensor = _Product.apply(input, self.weight, self.bias)
            return product
        return super().forward(input)


def _is_plain(*tensors: Tensor) -> bool:
    lowered = torch.is_autocast_enabled("cpu")
    kinds = {type(t) for t in tensors} - {Tensor, nn.Parameter}  # one in shards is another
    return not (lowered or kinds) and all(t.is_cpu and t.dtype == torch.float32 for t in tensors)


def _product(x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + bias."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, W, bias, "none", [], "")
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, W)
        return _product(x, W, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, W = ctx.saved_tensors
        to_x, to_W, to_bias = ctx.needs_input_grad
        outputs, inputs = (t.reshape(-1, t.shape[-1]) for t in (gradient, x))
        return (
            _product(gradient, W.T) if to_x else None,
            _product(outputs.T, inputs.T) if to_W else None,
            outputs.sum(0) if to_bias else None,
        )
