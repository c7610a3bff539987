"""Sampling in which a completion depends on its own key alone, not on what is beside it.

A batch sampled from one generator changes when it is split: by lengths, among processes, or to save
memory. Here every prompt has a generator of its own.
"""

import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import LogitsProcessor


def key_of(*key: object) -> int:
    """The seed that a key stands for, the same on every machine."""
    return zlib.crc32("/".join(map(str, key)).encode())


class KeyedSampling(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Turns greedy choice into sampling: the first token whose cumulative probability exceeds u.

    Each rollout of a prompt takes one uniform u a token from the prompt's generator.

    Source: inversion; Devroye 1986, Non-Uniform Random Variate Generation, section III.2.
    """

    def __init__(
        self,
        keys: Sequence[tuple[object, ...]],
        per_prompt: int,
        temperature: float,
        device: torch.device,
    ) -> None:
        self.per_prompt, self.temperature = per_prompt, temperature
        self.place = "cpu" if device.type == "mps" else device  # which has no float64
        self.generators = [torch.Generator(self.place).manual_seed(key_of(*key)) for key in keys]

    def __call__(
        self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        """One where the token is that was drawn, zero elsewhere."""
        p_BV = (scores.float() / self.temperature).softmax(-1)
        sums_BV = p_BV.to(self.place).double().cumsum(-1)
        u_B1 = torch.cat([self._uniforms(generator) for generator in self.generators])
        all_B1 = sums_BV[:, -1:]
        # Rounding may lift the product to the sum itself, which no token exceeds.
        below_B1 = torch.minimum(u_B1 * all_B1, torch.nextafter(all_B1, torch.zeros_like(all_B1)))
        drawn_B1 = torch.searchsorted(sums_BV, below_B1, right=True)
        return torch.zeros_like(p_BV).scatter_(-1, drawn_B1.to(p_BV.device), 1.0)

    def _uniforms(self, generator: torch.Generator) -> Float64[Tensor, "G 1"]:
        shape = (self.per_prompt, 1)
        return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
