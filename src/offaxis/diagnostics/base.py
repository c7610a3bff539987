"""What a diagnostic is given, what it returns, and what it declares about itself."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.linalg.spectra import Factors, exact_svd

EPS = torch.finfo(torch.float64).eps

Settings = Mapping[str, Any]
T = TypeVar("T")


class Reading(NamedTuple):
    """One number: None where it is not defined, with flags that say why.

    `error_bound` is absolute, and bounds what float64 arithmetic can have done to the value.
    """

    value: float | None
    error_bound: float = 0.0
    flags: tuple[str, ...] = ()


class NullReading(NamedTuple):
    """Mean and standard deviation of a quantity under one null; None where not defined."""

    null: str
    mean: float | None
    sd: float | None
    draws: int
    method: str


class Matrix:
    """A matrix with its factors, taken when first asked for and kept while it is in hand."""

    def __init__(
        self, W: Float64[Tensor, "m n"], decompose: Callable[[Tensor], Factors] = exact_svd
    ) -> None:
        self.W = W
        self._decompose = decompose
        self._derived: dict[object, Any] = {}

    @cached_property
    def factors(self) -> Factors:
        """Singular vectors and values."""
        return self._decompose(self.W)

    @property
    def s(self) -> Float64[Tensor, " p"]:
        """Singular values, descending."""
        return self.factors.s

    @cached_property
    def norm(self) -> float:
        """Frobenius norm, scaled so that no square overflows or underflows."""
        largest = float(self.W.abs().max())
        return largest * float((self.W / largest).norm()) if largest > 0 else 0.0

    @property
    def is_zero(self) -> bool:
        """Whether every entry is zero."""
        return self.norm == 0

    @property
    def p(self) -> int:
        """The smaller dimension."""
        return min(self.W.shape)

    @property
    def rounding(self) -> float:
        """Bound of a computed singular value's absolute error, by LAPACK's backward stability."""
        return max(self.W.shape) * EPS * float(self.s[0])

    def left(self, k: int) -> Float64[Tensor, "m k"]:
        """The first k left singular vectors, as columns."""
        U = self.factors.U
        assert U is not None, "this matrix was decomposed for its values only"
        return U[:, :k]

    def right(self, k: int) -> Float64[Tensor, "n k"]:
        """The first k right singular vectors, as columns."""
        Vh = self.factors.Vh
        assert Vh is not None, "this matrix was decomposed for its values only"
        return Vh[:k].T

    def derived(self, key: object, compute: Callable[[], T]) -> T:
        """Keep what is computed of this matrix alone, for the checkpoints that share it."""
        if key not in self._derived:
            self._derived[key] = compute()
        value: T = self._derived[key]
        return value


@dataclass(frozen=True)
class WeightUpdate:
    """The pair (anchor, current) of one matrix, and the delta between them.

    `storage` is the format the current weights were stored in. `noise_edge` is the largest singular
    value that the delta showed under random signs; infinite where none were drawn.
    """

    anchor: Matrix
    current: Matrix
    delta: Matrix
    storage: torch.dtype = torch.float32
    noise_edge: float = math.inf


class ClosedForm(NamedTuple):
    """A null in closed form, for one quantity."""

    quantity: str
    reading: NullReading


DiagnosticFunction = Callable[..., Mapping[str, Reading]]
ClosedForms = Callable[..., Iterable[ClosedForm]]


@dataclass(frozen=True)
class Diagnostic:
    """A diagnostic with everything it declares.

    Attributes:
        name: Its name in the table.
        function: (update, **settings) -> a reading for each quantity.
        version: Of the definition; raised when a change moves a value.
        units: The quantities, in order, with their units.
        source: Where the definition stands.
        settings: The defaults of a matrix whose smaller dimension is p.
        primary: The nulls that may stand beside a reading, the first available taken.
        ensembles: Random updates on which the function is evaluated as a null.
        closed_forms: (update, **settings) -> nulls known without drawing.
        primary_of: Exceptions to `primary`, by quantity.
    """

    name: str
    function: DiagnosticFunction
    version: int
    units: Mapping[str, str]
    source: str
    settings: Callable[[int], Settings]
    primary: tuple[str, ...]
    ensembles: tuple[str, ...]
    closed_forms: ClosedForms | None = None
    primary_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def resolve(self, p: int, overrides: Settings) -> Settings:
        """The settings for one matrix: its defaults, then what the user set."""
        return {**self.settings(p), **overrides}


def diagnostic(
    *,
    version: int,
    units: Mapping[str, str],
    source: str,
    primary: tuple[str, ...],
    ensembles: tuple[str, ...],
    settings: Callable[[int], Settings] = lambda p: {},
    closed_forms: ClosedForms | None = None,
    primary_of: Mapping[str, tuple[str, ...]] | None = None,
) -> Callable[[DiagnosticFunction], Diagnostic]:
    """Declare a diagnostic; the catalogue finds it by listing this package."""

    def declare(function: DiagnosticFunction) -> Diagnostic:
        return Diagnostic(
            name=function.__name__,
            function=function,
            version=version,
            units=units,
            source=source,
            settings=settings,
            primary=primary,
            ensembles=ensembles,
            closed_forms=closed_forms,
            primary_of=primary_of or {},
        )

    return declare


ZERO_UPDATE = Reading(0.0, flags=("zero_update",))
"""What a size, an angle or a rank reads when nothing moved."""

UNDEFINED_AT_ZERO = Reading(None, flags=("zero_update",))
"""What a share of the update, or its shape, reads when nothing moved."""
