"""Divergences between student and teacher over the whole vocabulary, each named by its gradient.

Exact sums, not estimates: sampled forms that share a name often have another divergence's gradient
(the popular k3 estimate of the reverse KL, differentiated, is the gradient of the forward KL).
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


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


DIVERGENCES: dict[
    str, Callable[[Float[Tensor, "B T V"], Float[Tensor, "B T V"]], Float[Tensor, "B T"]]
] = {"reverse_kl": reverse_kl, "forward_kl": forward_kl}
