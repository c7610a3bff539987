"""Changes of attention weights that no output sees: values rotated, key-value heads reordered.

Weights are as linear layers hold them, outputs in rows. With G query heads to each key-value head,
query head h reads key-value head h // G.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from offaxis.linalg.orthonormal import orthonormalised


class Attention(NamedTuple):
    """The four matrices of an attention layer, with the biases of the first three where it has any.

    Attributes:
        q: (H d) x n, query heads one after another.
        k: (K d) x n, key-value heads likewise.
        v: (K d) x n.
        o: n x (H d).
        q_bias: H d numbers.
        k_bias: K d numbers.
        v_bias: K d numbers.
    """

    q: Float[Tensor, "qd n"]
    k: Float[Tensor, "kd n"]
    v: Float[Tensor, "kd n"]
    o: Float[Tensor, "n qd"]
    q_bias: Float[Tensor, " qd"] | None = None
    k_bias: Float[Tensor, " kd"] | None = None
    v_bias: Float[Tensor, " kd"] | None = None


def random_rotation(dimension: int, generator: Generator) -> Float[Tensor, "d d"]:
    """Return a uniformly drawn (Haar) orthogonal matrix, float64."""
    return orthonormalised(
        torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    )


def with_values_rotated(layer: Attention, R: Float[Tensor, "d d"]) -> Attention:
    r"""Return the layer with every head's values turned, and turned back on the way out.

    $W_v'=(I\otimes R^\top)W_v$, $W_o'=W_o(I\otimes R)$: attention weighs values, so that an
    orthogonal R goes through it.

    Args:
        layer: The layer.
        R: Orthogonal, of the dimension of a head; the same for all heads.

    Source:
        arXiv:2511.08567, appendix D.
    """
    d = len(R)
    bias = None if layer.v_bias is None else _turned(layer.v_bias[:, None], R.T)[:, 0]
    o = _turned(layer.o.T, R.T).T
    assert layer.v.shape[0] % d == 0, "R is of the dimension of a head"
    return layer._replace(v=_turned(layer.v, R.T), o=o, v_bias=bias)


def with_heads_permuted(layer: Attention, order: Sequence[int]) -> Attention:
    """Return the layer with its key-value heads in another order, and query heads with theirs.

    Args:
        layer: The layer.
        order: Which head comes first, second, ...; every key-value head once.

    Source:
        arXiv:2511.08567, appendix D.
    """
    d = layer.k.shape[0] // len(order)
    group = layer.q.shape[0] // layer.k.shape[0]
    place = torch.tensor(list(order), device=layer.k.device)
    kv = (place[:, None] * d + torch.arange(d, device=place.device)).reshape(-1)
    wide = torch.arange(group * d, device=place.device)
    q = (place[:, None] * group * d + wide).reshape(-1)

    def moved(bias: Tensor | None, rows: Tensor) -> Tensor | None:
        return None if bias is None else bias[rows]

    biases = moved(layer.q_bias, q), moved(layer.k_bias, kv), moved(layer.v_bias, kv)
    return Attention(layer.q[q], layer.k[kv], layer.v[kv], layer.o[:, q], *biases)


def _turned(W: Float[Tensor, "hd n"], R: Float[Tensor, "d d"]) -> Float[Tensor, "hd n"]:
    """Every head's block of rows multiplied by R, in float64."""
    heads = W.double().reshape(-1, len(R), W.shape[1])
    return (R.double() @ heads).reshape(W.shape).to(W.dtype)
