r"""Second moments of gradients that are never formed: sums of outer products, one sample at a time.

The gradient of sample i in a linear layer is $G_i=D_i^\top X_i$: $X_i$ holds the layer's input at
each of S positions, $D_i$ what is backpropagated to its output there. A vectorised m x n gradient
has a second moment of (mn)^2 entries; kept are its two sides, $E[G^\top G]$ on the inputs and
$E[GG^\top]$ on the outputs, both uncentred, and neither needs a G.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class Samples(NamedTuple):
    """The gradients of B samples in one layer, as factors.

    Attributes:
        outputs: What is backpropagated to the output at each position, zero where nothing is.
        inputs: The input there.
    """

    outputs: Float[Tensor, "B S m"]
    inputs: Float[Tensor, "B S n"]

    def gradients(self) -> Float64[Tensor, "B m n"]:
        """The gradients themselves, for layers small enough."""
        return self.outputs.double().mT @ self.inputs.double()

    def scaled(self, factor: float) -> "Samples":
        """The same times a factor."""
        return self._replace(outputs=self.outputs * factor)

    def plus(self, other: "Samples") -> "Samples":
        """The sums of the gradients of both, sample by sample."""
        return Samples(
            torch.cat([self.outputs, other.outputs], 1), torch.cat([self.inputs, other.inputs], 1)
        )


class Moment(NamedTuple):
    """Sums over samples of both sides' second moments; they add up.

    Attributes:
        right: The sum of G'G.
        left: The sum of GG'.
        samples: How many samples there were.
    """

    right: Float64[Tensor, "n n"]
    left: Float64[Tensor, "m m"]
    samples: int

    def plus(self, other: "Moment") -> "Moment":
        """The moment of both sets of samples."""
        return Moment(
            self.right + other.right, self.left + other.left, self.samples + other.samples
        )

    @property
    def energy(self) -> float:
        """The mean squared Frobenius norm of a gradient."""
        return float(self.right.trace()) / self.samples

    def side(self, name: str) -> Float64[Tensor, "d d"]:
        """The mean on one side, `right` or `left`."""
        return (self.right if name == "right" else self.left) / self.samples


class Fit(NamedTuple):
    r"""How well one moment is another one times a factor.

    Attributes:
        factor: The c of least squares, $\langle A,B\rangle/\lVert B\rVert^2$.
        residual: $\lVert A-cB\rVert_F/\lVert cB\rVert_F$.
    """

    factor: float
    residual: float


def moment_of(samples: Samples) -> Moment:
    r"""Return the sums of $G_i^\top G_i$ and of $G_iG_i^\top$ over the samples, exactly.

    $G^\top G=X^\top(DD^\top)X$ costs S x S and n x n numbers at a time, not m x n.

    Example:
        >>> one = Samples(torch.tensor([[[2.0]]]), torch.tensor([[[3.0, 1.0]]]))
        >>> moment_of(one).right.tolist()
        [[36.0, 12.0], [12.0, 4.0]]
    """
    return cross_moment(samples, samples)


def cross_moment(a: Samples, b: Samples) -> Moment:
    r"""Return the sums of $A_i^\top B_i$ and of $A_iB_i^\top$ over paired samples."""
    D, X = a.outputs.double(), a.inputs.double()
    E, Y = b.outputs.double(), b.inputs.double()
    right = torch.einsum("bsn,bsk->nk", X, (D @ E.mT) @ Y)
    left = torch.einsum("bsm,bsk->mk", D, (X @ Y.mT) @ E)
    return Moment(right, left, len(D))


def mixed_moment(a: Moment, b: Moment, cross: Moment | None, alpha: float) -> Moment:
    r"""Return the second moment of $\alpha A+(1-\alpha)B$ from those of A and B.

    $\alpha^2\Sigma_A+(1-\alpha)^2\Sigma_B+\alpha(1-\alpha)\Sigma_\times$, $\Sigma_\times$ the cross
    moment and its transpose: exact with it; without it, what is left when it is neglected.

    Source:
        arXiv:2606.07082, section 5.2.
    """
    right = alpha**2 * a.right + (1 - alpha) ** 2 * b.right
    left = alpha**2 * a.left + (1 - alpha) ** 2 * b.left
    if cross is not None:
        weight = alpha * (1 - alpha)
        right = right + weight * (cross.right + cross.right.T)
        left = left + weight * (cross.left + cross.left.T)
    return Moment(right, left, a.samples)


def energy_share(moment: Float64[Tensor, "d d"], basis: Float64[Tensor, "d k"]) -> float | None:
    r"""Return $\mathrm{tr}(Q^\top\Sigma Q)/\mathrm{tr}\,\Sigma$, in [0, 1]; None for a zero moment.

    Args:
        moment: A second moment.
        basis: Q, orthonormal columns. A random one of k directions gives k/d.
    """
    total = float(moment.trace())
    if total == 0:
        return None
    return min(float((basis * (moment @ basis)).sum()) / total, 1.0)


def fitted(A: Float64[Tensor, "d d"], B: Float64[Tensor, "d d"]) -> Fit | None:
    r"""Fit A by cB; None where B is zero or nothing of A lies along it.

    Source:
        arXiv:2606.07082, section 5.2: $E[\tilde g\tilde g^\top]\approx cE[gg^\top]$.
    """
    size = float(B.square().sum())
    factor = float((A * B).sum()) / size if size else 0.0
    if factor == 0:
        return None
    return Fit(factor, float((A - factor * B).norm()) / (abs(factor) * math.sqrt(size)))
