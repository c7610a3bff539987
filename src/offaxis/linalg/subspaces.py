"""How much of one subspace lies in another."""

from jaxtyping import Float64
from torch import Tensor


def similarity(V_a: Float64[Tensor, "n K"], V_b: Float64[Tensor, "n K"]) -> float:
    r"""Return $\frac{1}{K}\lVert V_a^\top V_b\rVert_F^2$, the mean squared cosine.

    Args:
        V_a: Orthonormal basis, columns are the basis vectors.
        V_b: Orthonormal basis of another subspace of the same dimension.

    Returns:
        A number in [0, 1]: 1 for equal subspaces, 0 for orthogonal ones, K/n on average for
        unrelated isotropic ones.

    Source:
        arXiv:2606.07082, section 4.2.
    """
    return float((V_a.T @ V_b).square().sum() / V_a.shape[1])
