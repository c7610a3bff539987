"""The quantities that the page shows: where they stand in the table, and how to print them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

DEGREES = 180.0 / math.pi

# Two readings of one quantity count as different beyond this share of the larger mean. A declared
# heuristic: below a tenth, the seeds of the tiny laboratory cannot be told apart by eye either.
RELATIVE_MARGIN = 0.10


@dataclass(frozen=True)
class Quantity:
    """One quantity of the table, in the unit in which people read it."""

    key: str
    diagnostic: str
    quantity: str
    label: str
    unit: str = ""
    factor: float = 1.0
    log: bool = False
    settings: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def with_settings(self, **settings: str) -> "Quantity":
        """Return the same quantity under stricter settings, as `K="4"` or `as_="bf16"`."""
        wanted = {**self.settings, **{key.rstrip("_"): text for key, text in settings.items()}}
        return Quantity(
            self.key,
            self.diagnostic,
            self.quantity,
            self.label,
            self.unit,
            self.factor,
            self.log,
            MappingProxyType(wanted),
        )

    @property
    def titled(self) -> str:
        """The label with its unit, as an axis or a choice names it."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float | None) -> str:
        """Print a value (already in display units) with its unit."""
        body = number(value)
        return body if body == MISSING or not self.unit else f"{body}{UNIT_MARKS[self.unit]}"


# Typographic marks by their code, as they are easily taken for ASCII ones.
MISSING = DASH = "\u2013"
MINUS = "\u2212"
TIMES = "\u00d7"
# A narrow space that does not break keeps a number with its unit.
UNIT_MARKS = {"%": "\u202f%", "degrees": "°", "nats": "\u202fnats"}


def number(value: float | None) -> str:
    """Print a number with three significant digits, without exponent where it stays short."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    digits = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:,.{digits}f}".replace("-", MINUS)


def with_range(values: Sequence[float], unit: str = "") -> str:
    """Print the mean of the seeds, and their range where it can be seen."""
    if not values:
        return MISSING
    text = f"{number(sum(values) / len(values))}{UNIT_MARKS.get(unit, '')}"
    low, high = number(min(values)), number(max(values))
    return text if low == high else f"{text} [{low}{DASH}{high}]"


_ALL = [
    Quantity("sparsity", "sparsity", "sparsity", "Unchanged in bf16", "%", 100.0),
    Quantity("left_mean", "rotation", "left_mean", "Mean angle, left", "degrees", DEGREES, True),
    Quantity("right_mean", "rotation", "right_mean", "Mean angle, right", "degrees", DEGREES, True),
    Quantity("left_max", "rotation", "left_max", "Largest angle, left", "degrees", DEGREES, True),
    Quantity(
        "right_max", "rotation", "right_max", "Largest angle, right", "degrees", DEGREES, True
    ),
    Quantity("gap_ratio", "rotation", "gap_ratio", "Spectral norm of the delta / gap", log=True),
    Quantity("shift", "spectral_shift", "spectral_shift", "Spectral shift", log=True),
    Quantity("principal", "masks", "principal_overlap", "Overlap with principal", "%", 100.0),
    Quantity("low", "masks", "low_magnitude_overlap", "Overlap with small weights", "%", 100.0),
    Quantity("odds", "masks", "odds_ratio", "Odds ratio of change, principal to others"),
    Quantity("consistency", "gate", "consistency", "Changes seen / predicted"),
    Quantity("visible", "gate", "visible_fraction", "Update visible in bf16", "%", 100.0),
    Quantity(
        "energy",
        "principal_energy",
        "principal_energy",
        "Energy in the principal block",
        "%",
        100.0,
    ),
    Quantity("norm", "norm", "relative_norm", "Relative norm of the delta", "%", 100.0, True),
    Quantity("frobenius", "norm", "frobenius_norm", "Frobenius norm of the delta", log=True),
    Quantity("spectral_norm", "norm", "spectral_norm", "Spectral norm of the delta", log=True),
    Quantity("stable_rank", "rank", "stable_rank", "Stable rank", log=True),
    Quantity("effective_rank", "rank", "effective_rank", "Effective rank", log=True),
    Quantity("spikes", "rank", "spikes", "Directions above the noise edge"),
    Quantity("top16", "rank", "top16_energy", "Energy in the top 16 directions", "%", 100.0),
    Quantity("hill", "tail", "hill", "Hill exponent", log=True),
    Quantity("right_to_final", "similarity", "right_to_final", "Similarity to the end, right"),
    Quantity("left_to_final", "similarity", "left_to_final", "Similarity to the end, left"),
    Quantity("right_increment", "similarity", "right_increment", "Similarity of increments, right"),
    Quantity("left_increment", "similarity", "left_increment", "Similarity of increments, left"),
]

QUANTITIES = {quantity.key: quantity for quantity in _ALL}
