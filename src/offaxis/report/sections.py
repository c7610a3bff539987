"""The chapters of the page: which figures they have and what each caption says to look at."""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from offaxis.report import atlas, figures, matrix_charts, visibility
from offaxis.report.figures import Figure
from offaxis.report.quantities import QUANTITIES, Quantity
from offaxis.report.study import Study
from offaxis.report.words import FIGURE_WORDS


@dataclass(frozen=True)
class Group:
    """One chapter: a heading, an introduction, figures, and what is missing if there are none."""

    key: str
    title: str
    lead: str
    figures: tuple[Figure, ...]
    missing: str = ""


@dataclass(frozen=True)
class Maps:
    """The charts over single matrices and their selectors."""

    charts: dict[str, Any]
    arms: tuple[str, ...]
    quantities: tuple[tuple[str, str], ...]
    tensors: tuple[str, ...]
    block_bound: str  # the largest error bound of the energy in principal blocks, if known


def figure_groups(study: Study) -> dict[str, Group]:
    """Return the chapters by key, in the order of the page."""
    groups = [_learning(study), _geometry(study), _matched(study)]
    return {group.key: group for group in groups}


def _learning(study: Study) -> Group:
    made = [
        figures.over_steps(
            study,
            "accuracy",
            "Accuracy",
            "Greedy accuracy on one fixed set of problems. Look at where each arm ends, and how "
            "far its seeds lie apart.",
            "accuracy",
        ),
        figures.over_steps(
            study,
            "forward_kl",
            "Forward KL from the start",
            "How far the outputs moved: KL(start ‖ model) on the start's own fixed samples, "
            "on a logarithmic axis. "
            "In published work forgetting followed this, not readings of the weights "
            "(arXiv:2509.04259).",
            "forward_kl_nats",
        ),
    ]
    shown = tuple(figure for figure in made if figure.rows)
    missing = "" if shown else "No training log came with these checkpoints: nothing to draw here."
    return Group("learning", "Learning curves", "", shown, missing)


def _geometry(study: Study) -> Group:
    made = [
        _plain(study, "sparsity"),
        _sides(study, "mean", FIGURE_WORDS["rotation_mean"][1]),
        _sides(study, "max", _boundary_caption(study)),
        _plain(study, "shift"),
        _plain(study, "principal"),
        _plain(study, "low"),
        _storages(study),
        _plain(study, "norm"),
        _plain(study, "hill"),
        _by_k(study, "right_to_final"),
        _by_k(study, "right_increment"),
    ]
    shown = tuple(figure for figure in made if figure is not None and figure.rows)
    return Group(
        "geometry",
        "How the weights moved",
        "A panel per arm, a line per seed, over the steps. Dashed line and pale band: the null, "
        "mean and one standard deviation, computed at the same size of update. Step 0 is left out.",
        shown,
        "" if shown else "The table holds no readings after step 0.",
    )


def _matched(study: Study) -> Group:
    wanted = [
        ("sparsity", "Sparsity at equal norm", "the dashed null knows the size only"),
        ("right_mean", "Mean angle at equal norm", "right side"),
        ("stable_rank", "Stable rank at equal norm", "as stored"),
        ("shift", "Spectral shift at equal norm", "relative change of the singular values"),
    ]
    made = []
    for key, title, note in wanted:
        caption = (
            f"Over the relative norm of the update ({note}). Where curves of different arms fall "
            "on each other, the size of the update explains what looked like a difference."
        )
        figure = figures.against_norm(study, f"norm_{key}", title, caption, QUANTITIES[key])
        made.append(replace(figure, mark=_first_mark(study, QUANTITIES[key])))
    shown = tuple(figure for figure in made if figure.rows)
    return Group(
        "matched",
        "At matched update norm and at matched accuracy",
        "An arm that moved further has less sparsity and more rotation whatever its objective. "
        "Here the arms are compared where they have moved equally far, or learned equally much.",
        shown,
        "" if shown else "The table holds no norms to match.",
    )


def _first_mark(study: Study, quantity: Quantity) -> str:
    """Return the warning on the first two arms that their files make incomparable at one norm."""
    pairs = combinations([arm.key for arm in study.arms], 2)
    marks = (visibility.mark(study, pair, [quantity], "norm", fair=False) for pair in pairs)
    return next(filter(None, marks), "")


def _plain(study: Study, key: str) -> Figure | None:
    if not figures.has(study, key):
        return None
    return figures.trajectory(study, key, *FIGURE_WORDS[key], [("", QUANTITIES[key])])


def _sides(study: Study, which: str, caption: str) -> Figure | None:
    variants = [(side, QUANTITIES[f"{side}_{which}"]) for side in ("right", "left")]
    present = [(side, quantity) for side, quantity in variants if figures.has(study, quantity.key)]
    if not present:
        return None
    key = f"rotation_{which}"
    return figures.trajectory(study, key, FIGURE_WORDS[key][0], caption, present)


def _storages(study: Study) -> Figure | None:
    if not figures.has(study, "stable_rank"):
        return None
    rank = QUANTITIES["stable_rank"]
    measured = study.frame.settings("rank", "as") or ["stored"]
    names = {"stored": "as stored", "bf16": "as bf16 files"}
    variants = [
        (names.get(text, text), rank.with_settings(as_=text))
        for text in sorted(measured, key=lambda text: (text != "stored", text))
    ]
    title, caption = FIGURE_WORDS["stable_rank"]
    if len(variants) > 1:
        caption += f" {FIGURE_WORDS['stable_rank_bf16'][1]}"
    return figures.trajectory(study, "stable_rank", title, caption, variants)


def _by_k(study: Study, key: str) -> Figure | None:
    if not figures.has(study, key):
        return None
    measured = study.frame.settings("similarity", "K")
    variants = [(f"K = {k}", QUANTITIES[key].with_settings(K=k)) for k in measured]
    return figures.trajectory(study, key, *FIGURE_WORDS[key], variants or [("", QUANTITIES[key])])


def _boundary_caption(study: Study) -> str:
    """Explain the largest angle, with the share of readings whose boundary is uncertain."""
    caption = FIGURE_WORDS["rotation_max"][1]
    ratios = _final_gap_ratios(study, QUANTITIES["gap_ratio"])
    if not ratios:
        return caption + "."
    beyond = sum(ratio > 1 for ratio in ratios)
    return (
        f"{caption}: so it is at the end in {beyond} of {len(ratios)} matrices measured, where "
        "the largest angle must not be read as rotation."
    )


def _final_gap_ratios(study: Study, quantity: Quantity) -> list[float]:
    ratios: list[float] = []
    for row in atlas.last_rows(study, quantity):
        if row["value"] is not None and np.isfinite(row["value"]):
            ratios.append(row["value"])
    return ratios


def map_section(study: Study) -> Maps:
    """Return the charts and selectors over single matrices."""
    present = [key for key in atlas.MAPPED if figures.has(study, key)]
    chosen = atlas.chosen_matrices(study)
    layers = sorted({-1 if row["layer"] is None else row["layer"] for row in atlas.places(study)})
    roles = {atlas.cell_role(row) for row in atlas.places(study)}
    return Maps(
        charts={
            "heat": matrix_charts.heat(
                layers=[atlas.layer_name(None if layer < 0 else layer) for layer in layers],
                rows=max(len(roles), 1),
            ),
            "spectrum": matrix_charts.lines(
                study.arms, y_title="singular value", y_ticks=matrix_charts.DECADES, x_log=True
            ),
            "angle": matrix_charts.lines(
                study.arms,
                y_title="principal angle (degrees)",
                y_ticks=matrix_charts.ANGLE_TICKS,
                x_log=False,
            ),
            "block": matrix_charts.lines(
                study.arms,
                y_title="share of the delta's energy (%)",
                y_ticks=matrix_charts.DECADES,
                x_log=True,
                x_title="k",
            ),
        },
        arms=tuple(arm.label for arm in study.arms),
        quantities=tuple((key, QUANTITIES[key].titled) for key in present),
        tensors=tuple(atlas.matrix_name(tensor, view) for tensor, view in chosen),
        block_bound=_block_bound(study),
    )


def _block_bound(study: Study) -> str:
    energy = QUANTITIES["energy"]
    bounds = [row["error_bound"] or 0.0 for row in atlas.last_rows(study, energy)]
    return energy.text(energy.factor * max(bounds)) if any(bounds) else ""
