"""Krylov spaces of A'A, grown by vectors or blocks, which keep the image of every vector.

With the images at hand the best values that a space holds are found from them alone (Rayleigh and
Ritz), and what rounding does to the next vector makes a space less good, never a value wrong.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor

from offaxis.linalg.elementwise import load
from offaxis.linalg.products import product
from offaxis.linalg.tridiagonal import all_vectors_

_HEIGHT = 1024  # rows of A that stay in cache between the two products
_PASSES = 4


class Space(NamedTuple):
    """An orthonormal basis and its images; vectors are rows.

    Attributes:
        vectors: The basis.
        images: A times each; absent where only A'A is known.
        returned: A'A times each.
        first: How many of them are the random start.
        projected: A'A on the basis, in the precision of the products.
    """

    vectors: Float[Tensor, "j n"]
    images: Float[Tensor, "j m"] | None
    returned: Float[Tensor, "j n"]
    first: int
    projected: Float64[Tensor, "j j"]

    def part(self, size: int) -> "Space":
        """The space of its first vectors."""
        images = None if self.images is None else self.images[:size]
        B = self.projected[:size, :size]
        return Space(self.vectors[:size], images, self.returned[:size], self.first, B)


class Ritz(NamedTuple):
    """Singular values that a space holds, descending, and their combinations of its vectors."""

    s: Float64[Tensor, " j"]
    combinations: Float64[Tensor, "j j"]


Operator = Callable[[Tensor], tuple[Tensor | None, Tensor]]
"""A'A, applied to rows: their images under A where they are known, then those of the images."""


def of_matrix(A: Float[Tensor, "m n"]) -> Operator:
    """The operator of a matrix at hand."""

    def images(X: Float[Tensor, "b n"]) -> tuple[Tensor, Tensor]:
        if A.device.type != "cpu":
            Y = product(A, X.T)
            return Y.T, product(A.T, Y).T
        if X.shape[0] == 1:
            return _image_and_back(A, X)
        # OpenBLAS is quicker where the matrix comes first and few columns follow
        columns = X.T.contiguous()
        Y, Z = X.new_empty(A.shape[0], X.shape[0]), torch.zeros_like(columns)
        for rows, place in zip(A.split(_HEIGHT), Y.split(_HEIGHT), strict=True):
            place.copy_(product(rows, columns))
            Z += product(rows.T, place)
        return Y.T, Z.T

    return images


def of_gram(G: Float[Tensor, "n n"]) -> Operator:
    """The operator of a Gram matrix at hand."""

    def images(X: Float[Tensor, "b n"]) -> tuple[None, Tensor]:
        return None, product(X, G)

    return images


def grow(
    operator: Operator,
    start: Float[Tensor, "b n"],
    generator: Generator,
    *,
    most: int,
    locked: Float[Tensor, "l n"] | None = None,
) -> Iterator[Space]:
    """Yield the space of every step, from a start block to `most` vectors.

    A direction in which the space is exhausted, to rounding, goes on from a random one.

    Args:
        operator: Of the matrix.
        start: Random rows.
        generator: Of further random rows.
        most: Vectors at most; at most as many as there are dimensions beside the locked ones.
        locked: Orthonormal rows that the space keeps clear of.
    """
    block, n = start.shape
    held = 0 if locked is None else locked.shape[0]
    most = min(most, n - held)
    V = start.new_empty(held + most, n)
    if locked is not None:
        V[:held] = locked
    Y, Z = None, start.new_empty(most, n)
    B = start.new_zeros(most, most, dtype=torch.float64)
    X, j, scale = start, 0, 0.0
    while j < most:
        X = _orthonormalised(X[: most - j], V[: held + j], scale, generator)
        part = slice(j, j + X.shape[0])
        j = part.stop
        V[held + part.start : held + j] = X
        image, Z[part] = operator(X)
        if image is not None:
            Y = X.new_empty(most, image.shape[1]) if Y is None else Y
            Y[part] = image
        B[:j, part] = product(V[held : held + j], Z[part].T)
        B[part, :j] = B[:j, part].T.clone()
        scale = max(scale, float(torch.linalg.vector_norm(Z[part], dim=1).max()))
        yield Space(V[held:], Y, Z, block, B).part(j)
        X = Z[part].clone()


def refined(space: Space) -> Space:
    """The space with A'A on its basis to float64's rounding, where the images tell."""
    if space.images is None or space.images.dtype == torch.float64:
        return space
    images = space.images.double()  # the products of float32 numbers are exact in float64
    return space._replace(projected=product(images, images.T))


def ritz(space: Space, *, whole: bool = False) -> Ritz:
    """Return the singular values that a space holds.

    Args:
        space: The space.
        whole: Also take what squares in float64 round away from the images.
    """
    if whole and space.images is not None and space.images.dtype == torch.float64:
        _, s, Qh = torch.linalg.svd(torch.linalg.qr(space.images.T).R)
        return Ritz(s, Qh.T)
    squares, Q = all_vectors_(space.projected.clone())
    return Ritz(squares.flip(0).clamp(min=0).sqrt(), Q.flip(1))


def _orthonormalised(
    X: Float[Tensor, "b n"], V: Float[Tensor, "j n"], scale: float, generator: Generator
) -> Float[Tensor, "b n"]:
    """Make rows orthonormal to each other and to V; those of no size beside `scale` are redrawn."""
    eps = torch.finfo(X.dtype).eps
    weakest, clean = (32 * eps * scale) ** 2, 0
    for _ in range(_PASSES):
        if V.shape[0]:
            X = X - product(product(X, V.T), V)
        wide = X.double()
        squares, E = torch.linalg.eigh(product(wide, wide.T))
        weak = squares <= max(weakest, len(squares) * eps**2 * float(squares[-1]))
        X = (product(E.T, wide) / squares.clamp(min=1e-300).sqrt()[:, None]).to(X.dtype)
        if bool(weak.any()):
            fill = torch.randn(int(weak.sum()), X.shape[1], generator=generator)
            X[weak] = (fill / fill.norm(dim=1, keepdim=True)).to(X)
            clean = 0
        elif clean:
            break  # two passes: what is small once the others are taken off it has few digits
        else:
            clean = 1
        weakest = 0.0  # rows are of size one from here on
    return X


def _image_and_back(A: Float[Tensor, "m n"], X: Float[Tensor, "1 n"]) -> tuple[Tensor, Tensor]:
    loops = load("streaming") if A.dtype == torch.float32 and A.is_contiguous() else None
    if loops is None:
        Y = product(A, X.T)
        return Y.T, product(A.T, Y).T
    Y, Z = X.new_empty(1, A.shape[0]), torch.empty_like(X)
    loops.image_and_back(A.numpy(), X[0].numpy(), Y[0].numpy(), Z[0].numpy())
    return Y, Z
