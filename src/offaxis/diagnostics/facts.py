"""What is known of an anchor and of one update: the facts that diagnostics read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from offaxis.diagnostics.base import Tier
from offaxis.linalg.debias import Corrected
from offaxis.linalg.elementwise import Counts
from offaxis.linalg.gates import OddsRatio
from offaxis.linalg.onesided import Sides
from offaxis.linalg.rounding import Grid
from offaxis.linalg.stripes import Lines
from offaxis.linalg.tolerances import Within
from offaxis.linalg.visibility import Consistency, VisibleFraction


class Estimate(NamedTuple):
    """A number with an absolute bound on its error."""

    value: float
    bound: float


@dataclass(frozen=True)
class Anchor:
    """What is known of the anchor's matrix, once for every checkpoint.

    Attributes:
        rows: Output dimension.
        cols: Input dimension; 1 for a vector.
        norm: Frobenius norm.
        s: Singular values, descending; empty for a vector, which has none.
        s_bound: Absolute error bound of each of them.
        magnitudes: Its entries by bf16 magnitude and mask code.
        grid: The same as bf16 values.
        exponents: Its entries by exponent field of float32.
        masks: By quantity, the weight in [0, 1] that an entry of each mask code has in that mask.
        mask_gap: Relative gap behind the last direction of the principal mask.
    """

    rows: int
    cols: int
    norm: float
    s: Float64[Tensor, " p"]
    s_bound: Float64[Tensor, " p"]
    magnitudes: Int64[Tensor, "32768 16"]
    grid: Grid
    exponents: Int64[Tensor, "256"]
    masks: Mapping[str, Float64[Tensor, "16"]] = field(default_factory=dict)
    mask_gap: float = 1.0

    @property
    def p(self) -> int:
        """The smaller dimension."""
        return min(self.rows, self.cols)

    @property
    def q(self) -> int:
        """The larger dimension."""
        return max(self.rows, self.cols)

    @property
    def is_zero(self) -> bool:
        """Whether every entry is zero."""
        return self.norm == 0

    def gap(self, k: int) -> float:
        """The k-th singular value less the next one; the value itself for the last."""
        return float(self.s[k - 1] - self.s[k]) if k < self.s.numel() else float(self.s[k - 1])

    def gap_bound(self, k: int) -> float:
        """Absolute error bound of that gap."""
        return float(self.s_bound[k - 1 : k + 1].sum())


class Behind(NamedTuple):
    """Root mean square of an update, the standard error of its logarithm, and how it was sized.

    The error is 0 where the size is known.
    """

    rms: float
    error: float
    method: str


@dataclass(frozen=True)
class Spectrum:
    """The singular values of dW.

    Attributes:
        top: The largest, descending: all of them in the exact tier, as many as are needed in the
            fast one.
        bound: Absolute error bound of each of them.
        energy: Squared Frobenius norm.
        effective_rank: Exponential of the entropy of all of them.
        edge: The noise edge: above it, values are spikes; infinite where no signs were drawn.
        corrected: The spikes, freed of what noise and the cast to bf16 did to them.
        is_whole: Whether `top` holds all of them.
        tier: By which engine.
    """

    top: Float64[Tensor, " t"]
    bound: Float64[Tensor, " t"]
    energy: float
    effective_rank: Estimate
    edge: float = math.inf
    corrected: Corrected | None = None
    is_whole: bool = True
    tier: Tier = "exact"


@dataclass(frozen=True)
class Shift:
    """Norm of the movement of all singular values, over the norm of the anchor's.

    `validity` is the fast tier's, the median coupling of neighbouring singular directions by the
    update, in gaps; None where it was not computed.
    """

    relative: Estimate
    validity: float | None = None
    tier: Tier = "exact"


@dataclass(frozen=True)
class Side:
    """How one side's top-k subspace turned; angles ascending, in radians.

    `contained` holds the angles of the anchor's k directions into the current top k + k/8.
    """

    angles: Float64[Tensor, " k"]
    contained: Float64[Tensor, " k"]
    energy_lost: Estimate


@dataclass(frozen=True)
class Rotation:
    """How the top-k singular subspaces turned.

    `bound` holds for every angle, `mean_bound` for their mean and `contained_bound` for those into
    the larger subspace; below `floor` an angle is not told from zero.
    """

    k: int
    left: Side
    right: Side
    bound: float
    mean_bound: float
    contained_bound: float
    floor: float
    tier: Tier = "exact"


@dataclass(frozen=True)
class Blocks:
    """The share of dW's energy inside the anchor's top-k x top-k block, for k = 1 ... p."""

    inside: Float64[Tensor, " p"]
    bound: float
    tier: Tier = "fast"


@dataclass(frozen=True)
class WeightUpdate:
    """The facts of one matrix's update dW, as many as the diagnostics asked for.

    Attributes:
        anchor: The matrix it starts from.
        storage: The format in which the current weights were stored.
        norm: Frobenius norm of dW.
        norm_error: Relative error bound of it.
        counts: What one pass over the entries counted, by the tolerance eta.
        master: The format that held the weights in training, as torch names it, or `unknown`.
        behind: Size of the Gaussian update that is sent through the gate as a null.
        consistency: Changes seen over changes predicted by weights whose every change shows.
        visible: Norm of the update that bf16 shows, over the norm of the one behind it.
        odds: Of change in the principal mask, rows and columns taken into account, by eta.
        lines: The changes of rows and of columns, by eta.
        sides: The energy of dW along the anchor's top directions.
        within: Entries that moved by no more than an absolute tolerance, by tolerance.
        largest: The share of dW's energy in a fraction of its entries, by fraction.
    """

    anchor: Anchor
    storage: torch.dtype
    norm: float
    norm_error: float = 0.0
    counts: Mapping[float, Counts] = field(default_factory=dict)
    master: str = "unknown"
    behind: Behind | None = None
    consistency: Consistency | None = None
    visible: VisibleFraction | None = None
    odds: Mapping[float, OddsRatio] = field(default_factory=dict)
    spectrum: Spectrum | None = None
    shift: Shift | None = None
    rotation: Rotation | None = None
    blocks: Blocks | None = None
    lines: Mapping[float, tuple[Lines, Lines]] = field(default_factory=dict)
    sides: Sides | None = None
    within: Mapping[float, Within] = field(default_factory=dict)
    largest: Mapping[float, Estimate] = field(default_factory=dict)

    @property
    def is_zero(self) -> bool:
        """Whether nothing moved."""
        return self.norm == 0

    @property
    def rms(self) -> float:
        """Root mean square of the entries of dW."""
        return float(self.norm / (self.anchor.rows * self.anchor.cols) ** 0.5)
