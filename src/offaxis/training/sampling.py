"""Sampling in which a completion depends on its own key alone, not on what is beside it.

A batch sampled from one generator changes when it is split: by lengths, among processes, or to save
memory. Here every prompt has a generator of its own.
"""

import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor


def key_of(*key: object) -> int:
    """The seed that a key stands for, the same on every machine."""
    return zlib.crc32("/".join(map(str, key)).encode())


class KeyedSampling(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Turns greedy choice into sampling: the largest of p_v / e_v, e_v exponential, is drawn by p.

    It is how `torch.multinomial` draws one sample. Source: the exponential race, Gumbel-max in
    other words; Yellott 1977, "The relationship between Luce's choice axiom, Thurstone's theory
    of comparative judgment, and the double exponential distribution".
    """

    def __init__(
        self,
        keys: Sequence[tuple[object, ...]],
        per_prompt: int,
        temperature: float,
        device: torch.device,
    ) -> None:
        self.per_prompt, self.temperature = per_prompt, temperature
        self.generators = [torch.Generator(device).manual_seed(key_of(*key)) for key in keys]

    def __call__(
        self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        """The race of every row, by the generator of its prompt."""
        p_BV = (scores.float() / self.temperature).softmax(-1)
        race_BV = torch.empty_like(p_BV)
        rows = race_BV.split(self.per_prompt)
        for part, generator in zip(rows, self.generators, strict=True):
            part.exponential_(generator=generator)
        return p_BV / race_BV
