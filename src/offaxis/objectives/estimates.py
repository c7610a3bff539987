"""Estimates of a divergence from the sampled token alone, to be differentiated as a loss.

What an estimate is worth as a number says nothing of its gradient: k2 and k3 both estimate the
reverse KL, and on the student's own samples the expected gradient of k3 is the forward KL's.
Source: the names are those of Schulman 2020, "Approximating KL divergence".
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


def k2(student_BT: Float[Tensor, "B T"], teacher_BT: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Half the squared log-ratio; its expected gradient is that of KL(student || teacher)."""
    return 0.5 * (student_BT - teacher_BT).square()


def k3(student_BT: Float[Tensor, "B T"], teacher_BT: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """q/p - 1 - log(q/p), teacher q, student p; its expected gradient is the forward KL's."""
    log_ratio_BT = teacher_BT - student_BT
    return log_ratio_BT.expm1() - log_ratio_BT


ESTIMATES: dict[
    str, Callable[[Float[Tensor, "B T"], Float[Tensor, "B T"]], Float[Tensor, "B T"]]
] = {"k2": k2, "k3": k3}
