"""What a diagnostic returns, and what it declares about itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

EPS = torch.finfo(torch.float64).eps

Settings = Mapping[str, Any]

Tier = Literal["exact", "fast"]

Need = Literal[
    "counts", "spectrum", "shift", "rotation", "blocks", "lines", "sides", "tolerance", "largest"
]
"""A part of an update's facts: elementwise counts, the spectrum of dW, the movement of the
anchor's singular values, the turn of its top subspaces, and the energy of dW in its blocks. Of the
relatives alone: changes by row and column, energy along top directions, entries within an absolute
tolerance, and the energy of the largest entries."""


class Reading(NamedTuple):
    """One number: None where it is not defined, with flags that say why.

    `error_bound` is absolute, and bounds what arithmetic and approximation can have done to the
    value; `tier` says by which engine it was taken.
    """

    value: float | None
    error_bound: float = 0.0
    flags: tuple[str, ...] = ()
    tier: Tier = "exact"


class NullReading(NamedTuple):
    """Mean and standard deviation of a quantity under one null; None where not defined."""

    null: str
    mean: float | None
    sd: float | None
    draws: int
    method: str


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
        needs: The facts that the function reads.
        of_elements: Whether it can be read of a tensor that is no matrix, which has counts alone.
        is_relative: Whether it belongs to related work, and is measured only where it is named.
        settings_of: The diagnostic whose settings it takes, where both read the same facts.
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
    needs: frozenset[Need] = frozenset()
    of_elements: bool = False
    is_relative: bool = False
    settings_of: str = ""

    def resolve(self, p: int, overrides: Mapping[str, Settings]) -> Settings:
        """The settings for one matrix: its defaults, then what the user set, by diagnostic."""
        return {**self.settings(p), **overrides.get(self.settings_of or self.name, {})}


def diagnostic(
    *,
    version: int,
    units: Mapping[str, str],
    source: str,
    primary: tuple[str, ...],
    ensembles: tuple[str, ...],
    needs: tuple[Need, ...],
    of_elements: bool = False,
    is_relative: bool = False,
    settings_of: str = "",
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
            needs=frozenset(needs),
            of_elements=of_elements,
            is_relative=is_relative,
            settings_of=settings_of,
        )

    return declare


ZERO_UPDATE = Reading(0.0, flags=("zero_update",))
"""What a size, an angle or a rank reads when nothing moved."""

UNDEFINED_AT_ZERO = Reading(None, flags=("zero_update",))
"""What a share of the update, or its shape, reads when nothing moved."""


def undefined(diagnostic_of: Diagnostic, *flags: str) -> dict[str, Reading]:
    """Every quantity of a diagnostic without a value, and why."""
    return dict.fromkeys(diagnostic_of.units, Reading(None, 0.0, flags))
