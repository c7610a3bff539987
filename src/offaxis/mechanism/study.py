"""The mechanism of a run as rows of the study table, each beside what chance or noise gives.

Source: arXiv:2606.07082, section 5.2 and appendix D.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from offaxis.errors import RecipeError
from offaxis.linalg.confinement import leading_subspace
from offaxis.linalg.moments import (
    Moment,
    cross_moment,
    energy_share,
    fitted,
    mixed_moment,
)
from offaxis.linalg.theorems import slack_of
from offaxis.mechanism import conditions as asked
from offaxis.mechanism.conditions import Choice, Condition, Opened
from offaxis.mechanism.gradients import Gradients, Tape, added, moments_of, recorded
from offaxis.mechanism.numbers import Number, averaged
from offaxis.objectives.base import Streams
from offaxis.recipe import load_recipe
from offaxis.runs import RunFolder
from offaxis.training.constraints.sources import FoundUpdate
from offaxis.training.quiet import quiet_and_reproducible
from offaxis.training.rows import Rows
from offaxis.training.updates import layer_matrices

Row = dict[str, Any]
Moments = Mapping[str, Moment]
Bases = Mapping[str, tuple[Float64[Tensor, "m k"], Float64[Tensor, "n k"]]]

_SIDES = ("right", "left")
_FIFTH = 0.2


def mechanism_of(run: RunFolder, out: Path, choice: Choice, *, draw: int = 0) -> list[Row]:
    """Measure the second moments of a distilled run's gradients, and its perturbation bounds.

    Args:
        run: A finished run of on-policy distillation.
        out: The folder of runs and models that it was trained in, where its teacher is.
        choice: What to compare.
        draw: The number of the re-draw, for the rows.

    Returns:
        Rows with the columns of the study table, means over matrices: for every condition (`arm`)
        `locked_energy_right` and `_left` beside K over the dimension; `fit_factor_` and
        `fit_residual_` of its moment against the full one, beside the residual of other rollouts of
        the same student; for mixtures `mixture_residual_` and `mixture_residual_uncrossed_`, with
        and without the cross term; `wedin_used`, `weyl_used` and `mirsky_used`, shares of the
        bounds in [0, 1].

    Raises:
        RecipeError: If the run has no checkpoint at or after the step.
        UsageError: If it does not distil from a teacher on this machine.
        CheckpointError: If a model cannot be opened.
        NumericsError: If an update has fewer than K directions.
    """
    recipe = load_recipe(run.recipe_path)
    step = _step(run, choice)
    with quiet_and_reproducible(recipe.precision.threads):
        held = asked.opened(recipe, run.checkpoint(step), out)
        update = FoundUpdate(run.checkpoint(step), run.checkpoint(0))
        names = _names(held, choice)
        shapes = {name: tuple(held.model.get_parameter(name).shape) for name in names}
        updates = {name: update.of(name, shapes[name]) for name in names}
        bases = {name: _basis(name, D, choice.K) for name, D in updates.items()}
        values = [*_compared(held, choice, names, bases), *_mixed(held, choice, names)]
        values += _bounds(update, shapes, choice.K)
    place = {
        "draw": draw,
        "point": f"step={step}",
        "progress": step / run.steps()[-1],
        "precision": "stored",
        "spread": None,
    }
    return [place | row for row in averaged(values)]


def _rollouts(tape: Tape, streams: Streams) -> Iterator[Gradients]:
    """The gradients of whole rollouts, at once."""
    yield tape.rollouts(streams)


def moments(
    held: Opened,
    condition: Condition,
    choice: Choice,
    names: Sequence[str],
    samples: Callable[[Tape, Streams], Iterator[Gradients]] = _rollouts,
) -> Moments:
    """The second moments of a condition's gradients, some rows at a time.

    Args:
        held: The run's model.
        condition: The rollouts, and how they are weighed.
        choice: How many rows at a time.
        names: The weights.
        samples: What one gradient is of: a rollout, or a token (`Tape.tokens`), which takes one
            backward pass a position.
    """
    rows, models = condition.weighed(held)
    found: Moments = {}
    for part in _parts(rows, choice.rows):
        with recorded(held.model, part, names, models) as tape:
            assert part.streams is not None
            for gradients in samples(tape, part.streams):
                found = added(found, moments_of(gradients))
    return found


def _compared(held: Opened, choice: Choice, names: Sequence[str], bases: Bases) -> Iterator[Number]:
    """Every condition against the full gradient."""
    found: dict[str, Moments] = {}
    for condition in asked.conditions(held, choice):
        found[condition.name] = moments(held, condition, choice, names)
        if condition.name == asked.FULL:
            found[asked.TOKENS] = moments(held, condition, choice, names, Tape.tokens)
    full, other = found[asked.FULL], found[asked.OTHER]
    for arm, seen in found.items():
        for name in names:
            yield from _locked(arm, name, seen[name], bases[name])
            if arm != asked.FULL:
                yield from _fitted(arm, name, seen[name], full[name], other[name])


def _locked(arm: str, name: str, moment: Moment, basis: tuple[Tensor, Tensor]) -> Iterator[Number]:
    for side, Q in zip(("left", "right"), basis, strict=True):
        share, chance = energy_share(moment.side(side), Q), Q.shape[1] / Q.shape[0]
        yield Number(arm, name, f"locked_energy_{side}", share, chance, "random subspace")


def _fitted(arm: str, name: str, moment: Moment, full: Moment, other: Moment) -> Iterator[Number]:
    for side in _SIDES:
        fit = fitted(moment.side(side), full.side(side))
        noise = fitted(other.side(side), full.side(side))
        factor = None if fit is None else fit.factor
        yield Number(arm, name, f"fit_factor_{side}", factor, 1.0, "same law")
        residual, apart = (None if each is None else each.residual for each in (fit, noise))
        yield Number(arm, name, f"fit_residual_{side}", residual, apart, "other rollouts")


def _mixed(held: Opened, choice: Choice, names: Sequence[str]) -> Iterator[Number]:
    """The moment of a mixture against what its parts give, with the cross term and without."""
    own = next(asked.conditions(held, choice)).rows
    for alpha in choice.alphas:
        condition = asked.mixture(held, choice, alpha, own)
        rows, models = condition.weighed(held)
        sums: dict[str, Moments] = {}
        for part in _parts(rows, choice.rows):
            with recorded(held.model, part, names, models) as tape:
                assert part.streams is not None
                parts = {key: tape.rollouts(c.streams) for key, c in part.components.items()}
                crossed = {n: cross_moment(parts["opd"][n], parts["grpo"][n]) for n in names}
                seen = {"mixed": moments_of(tape.rollouts(part.streams)), "cross": crossed}
                seen |= {key: moments_of(found) for key, found in parts.items()}
                sums = {key: added(sums.get(key, {}), more) for key, more in seen.items()}
        for name in names:
            terms = {key: found[name] for key, found in sums.items()}
            yield from _mixture_rows(condition.name, name, terms, alpha)


def _mixture_rows(
    arm: str, name: str, terms: Mapping[str, Moment], alpha: float
) -> Iterator[Number]:
    for label, cross in (("", terms["cross"]), ("uncrossed_", None)):
        predicted = mixed_moment(terms["opd"], terms["grpo"], cross, alpha)
        for side in _SIDES:
            seen = terms["mixed"].side(side)
            size = float(seen.norm())
            away = float((predicted.side(side) - seen).norm()) / size if size else None
            yield Number(arm, name, f"mixture_residual_{label}{side}", away, 0.0, "exact")


def _bounds(update: FoundUpdate, shapes: Mapping[str, tuple[int, ...]], K: int) -> Iterator[Number]:
    """How much of the bounds of Wedin, Weyl and Mirsky the run's update uses."""
    for name, shape in shapes.items():
        start, end = (update.end(end, name, shape) for end in (update.anchor, update.checkpoint))
        slack = slack_of(start, end, min(K, min(shape) - 1)) if min(shape) > 1 else None
        if slack is not None:
            for label in ("wedin", "weyl", "mirsky"):
                value = getattr(slack, label)
                yield Number(asked.BOUNDS, name, f"{label}_used", value, 1.0, "the bound")


def _parts(rows: Rows, most: int) -> list[Rows]:
    num_rows = len(rows.input_ids_BS)
    return [rows.part(part) for part in rows.split(max(1, -(-num_rows // most)))]


def _names(held: Opened, choice: Choice) -> list[str]:
    """The chosen layer matrices that have K directions on both sides."""
    found = layer_matrices(held.model)
    return [
        name
        for name, weight in found.items()
        if any(fnmatchcase(name, pattern) for pattern in choice.matrices)
        and min(weight.shape) >= choice.K
    ]


def _basis(name: str, D: Float64[Tensor, "m n"], K: int) -> tuple[Tensor, Tensor]:
    """The locked subspaces, left and right, orthonormal in float64."""
    found = leading_subspace(D, K, name)
    left, right = (torch.linalg.qr(Q.double()).Q for Q in found)
    return left, right


def _step(run: RunFolder, choice: Choice) -> int:
    steps = [step for step in run.steps() if step > 0]
    wanted = _FIFTH * steps[-1] if choice.step is None and steps else float(choice.step or 1)
    later = [step for step in steps if step >= wanted]
    if not later:
        raise RecipeError(
            str(run.root),
            expected=f"a checkpoint at or after step {wanted:g}",
            found=f"steps {', '.join(map(str, run.steps())) or 'none'}",
            do="name an earlier step",
        )
    return later[0]
