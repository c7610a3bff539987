"""Readings and nulls of both tiers against the SVDs that scripts in use run for each matrix."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Reading, Tier
from offaxis.engine import Draws, Evaluation, PreparedAnchor, Stored, evaluate, prepare, request_for
from offaxis.linalg.factors import spectrum
from offaxis.linalg.lanczos import top_singular
from offaxis.measurement import Options
from offaxis.measurement.options import diagnostics
from pairs import Pair, pair, weights
from rows import Answer, Row, named, row, timed

TIERS: tuple[Tier, ...] = ("exact", "fast")
SCRIPT = "two float32 SVDs and one svdvals"

_GOALS: Mapping[tuple[Tier, tuple[int, int]], str] = {
    ("exact", (1024, 4096)): ">= 10",
    ("exact", (4096, 4096)): ">= 5.5",
    ("fast", (1024, 4096)): ">= 40",
    ("fast", (4096, 4096)): ">= 35",
}
_FLOAT32 = {  # what decompositions in float32 leave of each
    "rank.stable_rank": ("relative", "<= 1e-5"),
    "rotation.left_mean": ("absolute", "<= 1e-5"),
    "spectral_shift.spectral_shift": ("absolute", "<= 1e-5"),
}


class Script(NamedTuple):
    """What a script takes from its three decompositions in float32."""

    anchor: tuple[Tensor, Tensor, Tensor]
    current: tuple[Tensor, Tensor, Tensor]
    delta: Tensor


def script(given: Pair) -> Script:
    a, b = given.anchor.float(), given.current.float()
    return Script(
        torch.linalg.svd(a, full_matrices=False),
        torch.linalg.svd(b, full_matrices=False),
        torch.linalg.svdvals(b - a),
    )


class Tested:
    """One tier at one matrix: the anchor prepared, a checkpoint's readings on demand."""

    def __init__(self, tier: Tier, W: Tensor) -> None:
        self.tier, self.W = tier, W
        self.chosen = {name: item for name, item in diagnostics().items() if not item.is_relative}
        shape = (W.shape[0], W.shape[1])
        vectors = max(similarity.ranks_for(min(shape)), default=1)
        self.request = request_for(self.chosen, {}, shape, tier, vectors=vectors)
        self.anchor: PreparedAnchor | None = None

    def prepare(self) -> None:
        """Factor the anchor."""
        self.anchor = prepare(self.W, self.request)

    def evaluate(self, current: Tensor, draws: Draws) -> Evaluation:
        """Read every diagnostic on a checkpoint, with as many draws of the nulls."""
        assert self.anchor is not None
        held = Stored(lambda: current, torch.bfloat16, "float32")
        return evaluate(self.anchor, held, self.chosen, {}, draws)


def readings(found: Evaluation) -> dict[str, Reading]:
    """Readings by diagnostic and quantity."""
    return {
        f"{item.diagnostic.name}.{name}": reading
        for item in found.evaluated
        for name, reading in item.readings.items()
    }


def speed(shape: tuple[int, int], repeats: int) -> list[Row]:
    """Both tiers at one shape: their speed, and what they agree on."""
    given, case = pair(shape), named(shape)
    without, with_nulls = Draws(0, 0, "bench"), Options().draws_for("bench")
    scripted, truth = _repeated(lambda: script(given), repeats)
    rows: list[Row] = []
    found: dict[Tier, Mapping[str, Reading]] = {}
    for tier in TIERS:
        tested, label = Tested(tier, given.anchor), f"{tier} readings"
        _compile(tier)
        prepared, _ = timed(tested.prepare)
        plain, _ = _repeated(partial(tested.evaluate, given.current, without), repeats)
        whole, last = _repeated(partial(tested.evaluate, given.current, with_nulls), repeats)
        found[tier] = readings(last)
        nulls = [b - a for a, b in zip(plain, whole, strict=True)]
        once, goal = _ratios(scripted, plain), _GOALS.get((tier, shape), "")
        no_more = "<= 1" if tier == "exact" else ""
        rows += [
            row(label, SCRIPT, case, once, goal, seconds=plain),
            row(f"{label} with nulls", SCRIPT, case, _ratios(scripted, whole), seconds=whole),
            row(f"nulls of {label}", label, case, _ratios(nulls, plain), no_more, seconds=nulls),
            row(f"anchor of {label}", label, case, prepared / plain[0], seconds=[prepared]),
        ]
    k = tested.request.k
    return [*rows, *_agreement(truth, found["exact"], k, case), _within(found, case)]


def _compile(tier: Tier) -> None:
    """Go once through all that is compiled at its first call."""
    small = pair((320, 320))
    tested = Tested(tier, small.anchor)
    tested.prepare()
    tested.evaluate(small.current, Draws(2, 2, "compile"))


def _repeated(work: Callable[[], Answer], repeats: int) -> tuple[list[float], Answer]:
    """The CPU seconds of every repeat, and the last answer."""
    taken = []
    for _ in range(repeats):
        seconds, answer = timed(work)
        taken.append(seconds)
    return taken, answer


def _ratios(of: list[float], over: list[float]) -> list[float]:
    return [a / b for a, b in zip(of, over, strict=True)]


def _agreement(found: Script, exact: Mapping[str, Reading], k: int, case: str) -> list[Row]:
    """How far the exact tier is from the script's float32."""
    old, new = found.anchor[1].double(), found.current[1].double()
    U0, U1 = (Q.double()[:, :k] for Q in (found.anchor[0], found.current[0]))
    sines = torch.linalg.svdvals(U1 - U0 @ (U0.T @ U1)).clamp(max=1)
    theirs = {
        "rank.stable_rank": float(found.delta.double().square().sum() / found.delta[0] ** 2),
        "rotation.left_mean": float(sines.arcsin().mean()),
        "spectral_shift.spectral_shift": float((new - old).norm() / old.norm()),
    }
    rows = []
    for name, value in theirs.items():
        unit, less = _FLOAT32[name]
        away = abs((exact[name].value or 0.0) - value) / (value if unit == "relative" else 1)
        rows.append(row(f"{name}, exact", f"the script's, {unit} difference", case, away, less))
    return rows


def _within(found: Mapping[Tier, Mapping[str, Reading]], case: str) -> Row:
    """The largest difference between the tiers, in units of the bounds that they state."""
    worst, name = 0.0, "none"
    for key, reading in found["exact"].items():
        other = found["fast"][key]
        if reading.value is None or other.value is None or reading.value == other.value:
            continue
        bound = reading.error_bound + other.error_bound
        share = abs(reading.value - other.value) / bound if bound else math.inf
        worst, name = max((worst, name), (share, key))
    return row(f"fast readings, worst: {name}", "exact ones, in bounds", case, worst, "<= 1")


def largest_value(shape: tuple[int, int], repeats: int) -> list[Row]:
    """The largest singular value of an update and of rounding noise, with its stated bound."""
    W = weights(shape, torch.Generator().manual_seed(1))
    cases = {
        "a gap": (pair(shape).delta, "<= 1e-6"),
        "noise": (W - W.bfloat16().float(), "<= 1e-4"),
    }
    rows = []
    for name, (D, accuracy) in cases.items():
        case = f"{named(shape)}, {name}"
        top_singular(D)
        ours, top = _repeated(partial(top_singular, D), 3)
        theirs, _ = _repeated(partial(torch.linalg.svdvals, D), repeats)
        truth = float(spectrum(D).s[0])
        error = abs(float(top.s[0]) - truth)
        goal = ">= 50" if shape == (4096, 4096) else ""
        ratios = [a / b for a in theirs for b in ours]
        stated = error / float(top.bound[0])
        rows += [
            row("sigma_1 of dW", "svdvals float32", case, ratios, goal, seconds=ours),
            row("sigma_1 of dW, error", "its value", case, error / truth, accuracy),
            row("sigma_1 of dW, error", "its stated bound", case, stated, "<= 1"),
        ]
    return rows
