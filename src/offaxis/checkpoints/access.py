"""What a user allows of checkpoints that are not opened by default."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """What may be opened beside safetensors files of plain floating-point weights.

    Attributes:
        pickle: Pickled files, through `weights_only=True` alone: no code of theirs is run.
        quantised: Quantised weights, whose difference to others is quantisation noise too.
    """

    pickle: bool = False
    quantised: bool = False


SAFE = Access()
"""Nothing but the default."""
