"""Divergences between student and teacher over the whole vocabulary, each named by its gradient.

Exact sums, not estimates: `objectives.estimates` has what can be had from the sampled token alone.
Where memory or a server forces fewer entries, they are the student's own largest: on the teacher's
largest the gradient can point away from the reverse KL's, for the student's mass lies elsewhere.
"""

import math
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

Name = Literal["reverse_kl", "forward_kl", "jsd"]
Support = Literal["full", "student_top_k"]
Tail = Literal["renormalised", "bucket"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def reverse_kl(
    student_BTV: Float[Tensor, "B T V"], teacher_BTV: Float[Tensor, "B T V"]
) -> Float[Tensor, "B T"]:
    """KL(student || teacher) in nats at each position, from log-probabilities."""
    return (student_BTV.exp() * (student_BTV - teacher_BTV)).sum(-1)


def forward_kl(
    student_BTV: Float[Tensor, "B T V"], teacher_BTV: Float[Tensor, "B T V"]
) -> Float[Tensor, "B T"]:
    """KL(teacher || student) in nats at each position, from log-probabilities."""
    return (teacher_BTV.exp() * (teacher_BTV - student_BTV)).sum(-1)


def jsd(
    student_BTV: Float[Tensor, "B T V"], teacher_BTV: Float[Tensor, "B T V"], beta: float
) -> Float[Tensor, "B T"]:
    """Generalised Jensen-Shannon divergence in nats at each position, from log-probabilities.

    With the mixture m = (1 - beta) student + beta teacher it is
    beta KL(teacher || m) + (1 - beta) KL(student || m). Beta 0 is the forward KL and beta 1 the
    reverse KL, the limits of the divergence divided by beta and by 1 - beta.

    Source: Agarwal et al. 2024, arXiv:2306.13649; beta as in TRL's `DistillationTrainer`, which
    weighs the teacher.
    """
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(student_BTV, teacher_BTV)
    mixture_BTV = torch.logaddexp(student_BTV + math.log1p(-beta), teacher_BTV + math.log(beta))
    to_teacher_BT = reverse_kl(teacher_BTV, mixture_BTV)
    return beta * to_teacher_BT + (1 - beta) * reverse_kl(student_BTV, mixture_BTV)


class Divergence(NamedTuple):
    """A divergence with its settings.

    Attributes:
        name: Reverse KL, forward KL or generalised JSD.
        beta: The weight of the teacher in the mixture of `jsd`, from 0 to 1.
        support: The whole vocabulary, or the entries that the student holds likeliest.
        k: How many those are.
        tail: With `student_top_k`, both distributions renormalised on these entries, or with one
            entry more that holds the rest.
        temperature: What both models' logits are divided by.
    """

    name: Name = "reverse_kl"
    beta: float = 0.5
    support: Support = "full"
    k: int = 16
    tail: Tail = "renormalised"
    temperature: float = 1.0

    def __call__(
        self, student_BTV: Float[Tensor, "B T V"], teacher_BTV: Float[Tensor, "B T V"]
    ) -> Float[Tensor, "B T"]:
        """The divergence in nats at each position, from log-probabilities at temperature 1."""
        if self.temperature != 1:
            student_BTV = (student_BTV / self.temperature).log_softmax(-1)
            teacher_BTV = (teacher_BTV / self.temperature).log_softmax(-1)
        if self.support == "student_top_k" and self.k < student_BTV.shape[-1]:
            entries_BTk = student_BTV.detach().topk(self.k, -1).indices
            student_BTV = _on_support(student_BTV, entries_BTk, self.tail)
            teacher_BTV = _on_support(teacher_BTV, entries_BTk, self.tail)
        if self.name == "jsd":
            return jsd(student_BTV, teacher_BTV, self.beta)
        return {"reverse_kl": reverse_kl, "forward_kl": forward_kl}[self.name](
            student_BTV, teacher_BTV
        )


REVERSE_KL = Divergence()


def _on_support(
    log_p_BTV: Float[Tensor, "B T V"], entries_BTk: Tensor, tail: Tail
) -> Float[Tensor, "B T S"]:
    """Log-probabilities on some entries, renormalised or with the rest as one entry more."""
    within = log_p_BTV.gather(-1, entries_BTk)
    if tail == "renormalised":
        return within.log_softmax(-1)
    # Summed over the rest itself: one minus the entries' sum has no digits where it matters.
    rest = log_p_BTV.scatter(-1, entries_BTk, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([within, rest], -1)
