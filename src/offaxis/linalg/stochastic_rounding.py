"""Rounding to bfloat16 that is right on average, so that small steps are not lost."""

import torch
from jaxtyping import BFloat16, Float32
from torch import Generator, Tensor

_LOST = 16  # bits of float32 that bfloat16 has not


def rounded_stochastically(
    x: Float32[Tensor, "*shape"], generator: Generator
) -> BFloat16[Tensor, "*shape"]:
    r"""Round each value to one of its two neighbours in bfloat16, up with the share it is above.

    $E[\mathrm{round}(x)] = x$ for every finite x below the largest bfloat16; what bfloat16 can hold
    stays as it is. A step of a hundredth of an ulp, which rounding to nearest always loses, then
    moves a hundredth of the weights by an ulp.

    Args:
        x: Values; infinities stay, NaN stays NaN.
        generator: Source of the draws, on the device of `x`.

    Source:
        Gupta et al. 2015, arXiv:1502.02551; Zamirai et al. 2021, arXiv:2010.06192.
    """
    noise = torch.randint(
        0, 1 << _LOST, x.shape, generator=generator, device=x.device, dtype=torch.int32
    )
    # The magnitudes of floats are in the order of their bits: adding below the cut carries upwards.
    bits = x.contiguous().view(torch.int32) + noise
    cut = (bits >> _LOST << _LOST).view(torch.float32)
    return torch.where(x.isfinite(), cut, x).to(torch.bfloat16)
