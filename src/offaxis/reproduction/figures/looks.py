"""What arms and quantities are called in figures, their colours and units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from offaxis.report.quantities import MISSING, UNIT_MARKS, number
from offaxis.report.study import KNOWN_ARMS
from offaxis.reproduction.curves import Name
from offaxis.reproduction.figures.averages import Estimate


@dataclass(frozen=True)
class Shown:
    """How a quantity is read.

    Attributes:
        label: Its name on an axis.
        unit: `%`, `degrees`, `nats` or nothing.
        factor: From the study table's unit to this one.
        log: Whether its axis is logarithmic.
    """

    label: str
    unit: str = ""
    factor: float = 1.0
    log: bool = False

    @property
    def axis(self) -> str:
        """The title of its axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, found: Estimate | None) -> str:
        """A mean with its interval and unit."""
        if found is None:
            return MISSING
        mark = UNIT_MARKS.get(self.unit, "")
        text = f"{number(self.factor * found.mean)}{mark}"
        if found.low is None or found.high is None:
            return text
        ends = (number(self.factor * end) for end in (found.low, found.high))
        return f"{text} [{', '.join(ends)}]"

    def null_text(self, found: Estimate | None) -> str:
        """The null of an estimate with its unit."""
        if found is None or found.null is None:
            return MISSING
        return f"{number(self.factor * found.null)}{UNIT_MARKS.get(self.unit, '')}"


SHOWN = {
    "sparsity": Shown("unchanged in bf16", "%", 100.0),
    "update_density": Shown("update density", "%", 100.0),
    "principal_overlap": Shown("cond. principal overlap", "%", 100.0),
    "low_magnitude_overlap": Shown("cond. low-mag. overlap", "%", 100.0),
    "max_angle_left": Shown("largest angle, left", "degrees", math.degrees(1.0)),
    "max_angle_right": Shown("largest angle, right", "degrees", math.degrees(1.0)),
    "spectral_shift": Shown("normalised spectral shift"),
    "norm": Shown("Frobenius norm of the update", log=True),
    "stable_rank": Shown("stable rank"),
    "hill": Shown("Hill exponent"),
    "similarity": Shown("similarity to the end, K = 16"),
    "increment_similarity": Shown("similarity of increments, K = 16"),
    "accuracy": Shown("accuracy", "%", 100.0),
    "gain_kept": Shown("gain kept", "%", 100.0),
    "forward_kl_nats": Shown("KL from the run's own start", "nats", log=True),
}

_OF_ATTENTION = ("stable_rank", "hill", "norm", "similarity")


def shown(quantity: str) -> Shown:
    """How a quantity is read; one that is not listed by its own name."""
    return SHOWN.get(quantity, Shown(quantity.replace("_", " ")))


def as_published(quantity: str) -> Name:
    """Over which matrices and in which storage the paper reads a quantity."""
    if quantity in _OF_ATTENTION:
        return Name(quantity, "attention", "bf16")
    return Name(quantity, "linear", "stored")


LABELS = {
    **{arm: label for arm, (label, _) in KNOWN_ARMS.items()},
    **{f"opd-keep{share}-ratio": f"{share} % by log-ratio" for share in (25, 50)},
    **{f"opd-keep{share}-random": f"{share} % at random" for share in (25, 50)},
    "opd-from-teacher": "teacher's rollouts",
    "opd-from-anchor": "anchor's rollouts",
    **{f"opd-stale-{age}": f"{age} steps stale" for age in (2, 8, 32)},
    **{f"mixed-{share}-advantages": f"alpha = {share / 100:g}" for share in (75, 50, 25, 5, 1)},
    "opd-sampled": "alpha = 1",
    "mixed-50-normed": "alpha = 0.5, equal norms",
    **{
        f"{free}-k16-{basis}": f"rank 16, {said}"
        for free in ("opd", "sft", "sft-base")
        for basis, said in {
            "early": "early",
            "random": "random",
            "gradient": "gradient",
            "anchor": "of the anchor",
            "late": "late",
            "cross": "of the other",
        }.items()
    },
    **{f"{free}-frozen": "the rest frozen" for free in ("opd", "sft", "sft-base")},
}

_COLOURS = ("#d98e04", "#12997a", "#cf4a30", "#a566bd", "#7c9a00", "#8a6d5a", "#5f6b7a", "#c2588c")


def label(arm: str) -> str:
    """What an arm is called."""
    return LABELS.get(arm, arm)


def colours(arms: Sequence[str]) -> dict[str, str]:
    """The colour of every arm of one panel: those of the page, then others in their order."""
    known = {arm: KNOWN_ARMS[arm][1] for arm in arms if arm in KNOWN_ARMS}
    free = [colour for colour in _COLOURS if colour not in known.values()]
    others = [arm for arm in arms if arm not in known]
    return known | {arm: free[i % len(free)] for i, arm in enumerate(others)}
