"""What a user allows and gives for checkpoints that are not opened by default."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Access:
    """What may be opened beside safetensors files of plain floating-point weights.

    Attributes:
        pickle: Pickled files, through `weights_only=True` alone: no code of theirs is run.
        quantised: Quantised weights, whose difference to others is quantisation noise too.
        base: The model that adapters were trained on, where it is not the anchor.
    """

    pickle: bool = False
    quantised: bool = False
    base: Path | None = None


SAFE = Access()
"""Nothing but the default."""
