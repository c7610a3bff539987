"""The parts of an update's facts that come from decompositions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from offaxis.diagnostics.facts import (
    Blocks,
    Rotation,
    Shift,
    Spectrum,
    WeightUpdate,
)
from offaxis.linalg.lanczos import TopSingular
from offaxis.linalg.orthonormal import orthonormalised

_SINGLE = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Parts:
    """What one engine found; None where it was not asked, or its bound was not met.

    `kept` holds the tensors that later stages build on.
    """

    spectrum: Spectrum | None = None
    shift: Shift | None = None
    rotation: Rotation | None = None
    blocks: Blocks | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def beside(self, other: "Parts") -> "Parts":
        """Fill what is missing here from another engine's findings."""
        return Parts(
            spectrum=self.spectrum or other.spectrum,
            shift=self.shift or other.shift,
            rotation=self.rotation or other.rotation,
            blocks=self.blocks or other.blocks,
            kept={**other.kept, **self.kept},
        )

    def of(self, update: WeightUpdate) -> WeightUpdate:
        """The update with these parts."""
        return replace(
            update,
            spectrum=self.spectrum,
            shift=self.shift,
            rotation=self.rotation,
            blocks=self.blocks,
        )


def angles_of(rotation: Rotation) -> dict[str, Tensor]:
    """The curves of a rotation that are kept."""
    return {"angles_left": rotation.left.angles, "angles_right": rotation.right.angles}


def leading_of(top: TopSingular, vectors: int) -> dict[str, Tensor]:
    """Leading vectors, values and residuals under the names by which units keep them.

    Vectors found in float32 are orthonormalised in float64, and their residuals know its rounding.
    """
    rounding = 0.0 if top.left.dtype == torch.float64 else 4 * _SINGLE * float(top.s[0])
    return {
        "left": orthonormalised(top.left[:, :vectors].double()),
        "right": orthonormalised(top.right[:, :vectors].double()),
        "delta_spectrum": top.s,
        "residuals": top.residual[:vectors] + rounding,
    }
