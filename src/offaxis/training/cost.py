"""What training costs on an accelerator: operations counted, hours by a stated share of its peak.

    6 N D   learning from D tokens with the N parameters that a token meets (8 N D where layers are
            computed twice to save memory)
    2 N D   reading or sampling D tokens: the teacher's log-probabilities, rollouts, judgements

Lengths are the recipe's bounds, so that this is what a run costs at most. Attention's own
operations, which grow with the length, are not counted. The shares are assumptions, not
measurements: common values for dense models of this size, on whose account no figure is published.
"""

from typing import NamedTuple

PEAK_FLOPS = 989e12
"""bfloat16, dense, of one H100 or H200 by its data sheet."""
TRAINING_SHARE = 0.4
SAMPLING_SHARE = 0.1
"""Sampling is bound by memory."""

# What a step and a sampled position take of a model too small to fill an accelerator.
_STEP_SECONDS = 0.05
_POSITION_SECONDS = 0.02

FORMULA = (
    "6 N D learning (8 N D where layers are computed twice) and 2 N D reading at "
    f"{TRAINING_SHARE:.0%}, 2 N D sampling at {SAMPLING_SHARE:.0%} of "
    f"{PEAK_FLOPS / 1e12:.0f} TFLOP/s"
)


class Work(NamedTuple):
    """The floating-point operations of a run, at most.

    Attributes:
        learning: Of the student's steps, forward and backward.
        reading: Of the teacher's log-probabilities.
        sampling: Of rollouts, and of the problems a run is judged on.
        steps: Optimizer steps.
        positions: Positions sampled one after another in this process.
    """

    learning: float
    reading: float
    sampling: float
    steps: int
    positions: int

    @property
    def seconds(self) -> float:
        """On one accelerator."""
        busy = (self.learning + self.reading) / TRAINING_SHARE + self.sampling / SAMPLING_SHARE
        waiting = self.steps * _STEP_SECONDS + self.positions * _POSITION_SECONDS
        return busy / PEAK_FLOPS + waiting

    @property
    def gpu_hours(self) -> float:
        """Hours of one accelerator, in whatever number of them."""
        return self.seconds / 3600
