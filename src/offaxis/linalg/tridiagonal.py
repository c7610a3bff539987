"""Symmetric eigenvalue problems: one reduction serves all values and the leading vectors."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import lapack as scipy_lapack
from torch import Tensor

from offaxis.errors import NumericsError
from offaxis.linalg import lapack
from offaxis.linalg.orthonormal import orthonormalised

_TWO_STAGE = 2048  # from this size on the matrix leaves the cache, and two stages are faster
_ORTHONORMAL = 1e-11


class Eigensystem(ABC):
    """The eigenvalues of a symmetric matrix, descending, and its leading vectors on demand."""

    values: Tensor

    @abstractmethod
    def top(self, k: int) -> Float64[Tensor, "p k"]:
        """Return orthonormal eigenvectors of the k largest eigenvalues, as columns."""

    @abstractmethod
    def bottom(self, k: int) -> Float64[Tensor, "p k"]:
        """Return orthonormal eigenvectors of the k smallest eigenvalues, values descending."""


class Tridiagonal(Eigensystem):
    r"""$G=QTQ^\top$ by Householder reflectors, which stay where G was.

    Values by the root-free QR iteration, the k leading vectors of T by relatively robust
    representations, carried over to G by the reflectors. Vectors that come out not orthonormal to
    1e-11, or with another value or a residual, are replaced by divide and conquer; the rest is made
    orthonormal to rounding.

    Peak extra memory: 5 p k float64 numbers while k vectors are found, of which p k are returned.

    Source:
        LAPACK `dsytrd`, `dsterf`, `dstemr`, `dormtr`, `dstevd`.
    """

    def __init__(self, G: Float64[Tensor, "p p"]) -> None:
        """Reduce G, of which only the upper triangle is read and the whole is overwritten."""
        A = _finite(G).numpy().T  # in Fortran's order, so that the lower triangle is read
        work = int(scipy_lapack.dsytrd_lwork(A.shape[0], lower=1)[0])
        self._A, self._d, self._e, self._tau, info = scipy_lapack.dsytrd(
            A, lower=1, lwork=work, overwrite_a=1
        )
        self.values = _values(self._d, self._e, info)

    def top(self, k: int) -> Float64[Tensor, "p k"]:
        """Return orthonormal eigenvectors of the k largest eigenvalues, as columns."""
        return self._vectors(self._d.size - k, k)

    def bottom(self, k: int) -> Float64[Tensor, "p k"]:
        """Return orthonormal eigenvectors of the k smallest eigenvalues, values descending."""
        return self._vectors(0, k)

    def _vectors(self, first: int, k: int) -> Float64[Tensor, "p k"]:
        """The vectors from a place on, counted from the smallest value."""
        found = lapack.stemr(self._d, self._e, first, first + k - 1)
        if found is None or not self._holds(first, *found):
            _, vectors, info = scipy_lapack.dstevd(self._d, self._e)
            _converged(info, self._d.size)
            found = self._d, np.asfortranarray(vectors[:, first : first + k])
        Z = found[1]
        lapack.apply_reflectors(self._A, self._tau, Z)
        return orthonormalised(torch.from_numpy(Z).flip(1))

    def _holds(self, first: int, values: NDArray[np.float64], Z: NDArray[np.float64]) -> bool:
        k = Z.shape[1]
        exact = self.values.flip(0)[first : first + k].numpy()
        image = self._d[:, None] * Z
        image[1:] += self._e[:, None] * Z[:-1]
        image[:-1] += self._e[:, None] * Z[1:]
        residual = np.linalg.norm(image - exact * Z, axis=0).max()
        allowed = len(Z) * np.finfo(float).eps * float(self.values.abs().max())
        close = residual <= 10 * allowed and np.abs(values - exact).max() <= 10 * allowed
        return bool(close and np.abs(Z.T @ Z - np.eye(k)).max() <= _ORTHONORMAL)


class Dense(Eigensystem):
    """All vectors at once: for devices other than the CPU."""

    def __init__(self, G: Float64[Tensor, "p p"]) -> None:
        values, Q = all_vectors_(_finite(G))
        self.values, self._Q = values.flip(0), Q

    def top(self, k: int) -> Float64[Tensor, "p k"]:
        """Return orthonormal eigenvectors of the k largest eigenvalues, as columns."""
        leading: Tensor = self._Q[:, self._Q.shape[1] - k :].flip(1)
        return leading

    def bottom(self, k: int) -> Float64[Tensor, "p k"]:
        """Return orthonormal eigenvectors of the k smallest eigenvalues, values descending."""
        last: Tensor = self._Q[:, :k].flip(1)
        return last


def eigensystem(G: Float64[Tensor, "p p"]) -> Eigensystem:
    """Return the eigensystem of a symmetric matrix given by its upper triangle; overwrites G."""
    return Tridiagonal(G) if G.device.type == "cpu" else Dense(G)


def all_vectors_(G: Float64[Tensor, "p p"]) -> tuple[Float64[Tensor, " p"], Float64[Tensor, "p p"]]:
    """Return the eigenvalues, ascending, and all eigenvectors, as columns.

    Reads the upper triangle of a contiguous G; on the CPU the vectors lie in its memory. OpenBLAS
    is up to twice as fast at it as the MKL inside torch, which does not use AVX-512 on every CPU
    that has it.

    Source:
        LAPACK `dsyevd`, divide and conquer.
    """
    if G.device.type != "cpu":
        values, Q = torch.linalg.eigh(G, UPLO="U")
        return values, Q
    found, vectors, info = scipy_lapack.dsyevd(G.numpy().T, lower=1, overwrite_a=1)
    _converged(info, G.shape[0])
    return torch.from_numpy(found), torch.from_numpy(vectors)


def eigenvalues(G: Float64[Tensor, "p p"]) -> Float64[Tensor, " p"]:
    """Return the eigenvalues alone, descending; reads the upper triangle and overwrites G.

    Large matrices on the CPU take the two-stage reduction where scipy's LAPACK carries it.
    """
    if G.device.type != "cpu":
        values: Tensor = torch.linalg.eigvalsh(_finite(G), UPLO="U").flip(0)
        return values
    if G.shape[0] >= _TWO_STAGE and lapack.has_two_stage():
        return _values(*lapack.two_stage(_finite(G).numpy().T), info=0)
    return Tridiagonal(G).values


def _values(d: NDArray[np.float64], e: NDArray[np.float64], info: int) -> Float64[Tensor, " p"]:
    _converged(info, d.size)
    values, info = scipy_lapack.dsterf(d, e) if d.size > 1 else (d, 0)
    _converged(info, d.size)
    return torch.from_numpy(values).flip(0)


def _finite(G: Float64[Tensor, "p p"]) -> Float64[Tensor, "p p"]:
    """LAPACK's iterations may not end on what is not a number."""
    if not bool(G.diagonal().isfinite().all()):
        raise NumericsError(
            f"the Gram matrix of size {G.shape[0]}",
            expected="finite entries",
            found="infinite or not-a-number weights",
            do="check the checkpoint",
        )
    return G


def _converged(info: int, n: int) -> None:
    if info != 0:
        raise NumericsError(
            f"the eigenvalues of a symmetric matrix of size {n}",
            expected="LAPACK to converge",
            found=f"info = {info}",
            do="report the matrix: finite weights of ordinary size always converge",
        )
