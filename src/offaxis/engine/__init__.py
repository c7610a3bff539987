"""The engine: one anchor's matrix prepared, a checkpoint's matrix in, every number with its null.

Pure of disk and plots: `measurement` streams checkpoints through it, training may call it too.
"""

from offaxis.engine.anchor import PreparedAnchor, prepare
from offaxis.engine.draws import Draws, mean_and_sd
from offaxis.engine.evaluate import Evaluated, Evaluation, evaluate
from offaxis.engine.facts import Stored
from offaxis.engine.leading import leading, leading_factors
from offaxis.engine.low_rank import Factors, leading_of_step
from offaxis.engine.request import Request, request_for
from offaxis.engine.seeds import generator_for

__all__ = [
    "Draws",
    "Evaluated",
    "Evaluation",
    "Factors",
    "PreparedAnchor",
    "Request",
    "Stored",
    "evaluate",
    "generator_for",
    "leading",
    "leading_factors",
    "leading_of_step",
    "mean_and_sd",
    "prepare",
    "request_for",
]
