"""The chapters of the page: which figures they have and what each caption says to look at."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from offaxis.report import atlas, figures, matrix_charts
from offaxis.report.figures import Figure, Variants
from offaxis.report.quantities import QUANTITIES, Quantity
from offaxis.report.study import Study
from offaxis.report.words import NULL_WORDS


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
            "How far the outputs moved: KL(anchor ‖ model) on the anchor's own fixed samples. "
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
        _plain(
            study,
            "sparsity",
            "Sparsity: weights that bf16 does not see move",
            "Share of weights whose bf16 value stayed the same. Look at the distance between line "
            "and dashed null: on the null, the size of the update alone explains the sparsity.",
        ),
        _sides(
            study,
            "mean",
            "Rotation: mean principal angle",
            "How far the leading singular directions of each matrix turned. Above the null, the "
            "update turns them more than a structureless update of the same entries would.",
        ),
        _sides(study, "max", "Rotation: largest principal angle", _boundary_caption(study)),
        _plain(
            study,
            "shift",
            "Spectral shift",
            "Relative change of the singular values. Small values with a small null beside them "
            "mean a small update, not a protected spectrum.",
        ),
        _plain(
            study,
            "principal",
            "Changed weights among the principal ones",
            "Share of the changed weights that lie in the mask of principal weights. Below the "
            "null would be avoidance; on the null it is rounding, which hides moves of big "
            "weights.",
        ),
        _plain(
            study,
            "low",
            "Changed weights among the small ones",
            "Share of the changed weights that are small. Rounding lets small weights change more "
            "easily; only a distance from the null is a preference of the training.",
        ),
        _storages(study),
        _plain(
            study,
            "norm",
            "Size of the update",
            "Norm of the delta relative to that of the anchor: how far each arm has travelled. "
            "Most orders in this chapter follow this one.",
        ),
        _plain(
            study,
            "hill",
            "Tail of the update's spectrum (Hill exponent)",
            "Lower is heavier-tailed: a few directions dominate.",
        ),
        _by_k(
            study,
            "right_to_final",
            "Similarity to the final directions",
            "How much of the final leading directions is already there. It must end at 1 for any "
            "process; only the height above the random walk says that directions were fixed early.",
        ),
        _by_k(
            study,
            "right_increment",
            "Similarity of the update so far and its next increment",
            "The leading directions of the update so far, against those of the step that follows. "
            "The two share nothing by construction, unlike an update and its own end.",
        ),
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
        made.append(figures.against_norm(study, f"norm_{key}", title, caption, QUANTITIES[key]))
    shown = tuple(figure for figure in made if figure.rows)
    return Group(
        "matched",
        "At matched update norm and at matched accuracy",
        "An arm that moved further has less sparsity and more rotation whatever its objective. "
        "Here the arms are compared where they have moved equally far, or learned equally much.",
        shown,
        "" if shown else "The table holds no norms to match.",
    )


def _plain(study: Study, key: str, title: str, caption: str) -> Figure | None:
    if not figures.has(study, key):
        return None
    return _figure(study, key, title, caption, [("", QUANTITIES[key])])


def _sides(study: Study, which: str, title: str, caption: str) -> Figure | None:
    variants = [(side, QUANTITIES[f"{side}_{which}"]) for side in ("right", "left")]
    present = [(side, q) for side, q in variants if figures.has(study, q.key)]
    return _figure(study, f"rotation_{which}", title, caption, present) if present else None


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
    caption = "How many directions carry the update's energy. Far below the null: truly low rank. "
    if len(variants) > 1:
        caption += (
            "Lower row: the same checkpoints as bf16 files would show them; where updates are "
            "small, rounding noise makes them look higher-rank than they are."
        )
    return _figure(study, "stable_rank", "Stable rank", caption, variants)


def _by_k(study: Study, key: str, title: str, caption: str) -> Figure | None:
    if not figures.has(study, key):
        return None
    measured = study.frame.settings("similarity", "K")
    variants = [(f"K = {k}", QUANTITIES[key].with_settings(K=k)) for k in measured]
    return _figure(study, key, title, caption, variants or [("", QUANTITIES[key])])


def _figure(study: Study, key: str, title: str, caption: str, variants: Variants) -> Figure:
    return figures.trajectory(study, key, title, caption, variants)


def null_sentence(figure: Figure) -> str:
    """Say in words what the null of a figure is."""
    described = [NULL_WORDS.get(name, name) for name in figure.nulls]
    return f"Null: {'; or '.join(described)}." if described else ""


def _boundary_caption(study: Study) -> str:
    """Explain the largest angle, with the share of readings whose boundary is uncertain."""
    caption = (
        "The largest angle sits at the edge of the chosen subspace. Where the spectral norm of "
        "the delta exceeds the gap between the k-th and the next singular value, directions may "
        "simply have changed places"
    )
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
    roles = {row["role"] or row["tensor"] for row in atlas.places(study)}
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
        },
        arms=tuple(arm.label for arm in study.arms),
        quantities=tuple((key, _long_label(QUANTITIES[key])) for key in present),
        tensors=tuple(atlas.matrix_name(tensor, view) for tensor, view in chosen),
    )


def _long_label(quantity: Quantity) -> str:
    return f"{quantity.label} ({quantity.unit})" if quantity.unit else quantity.label
