"""Distillation and reinforcement on the same rollouts, mixed in the loss or in the advantages."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from offaxis.objectives.base import Component, Fact, Streams, TokenBatch, objective
from offaxis.objectives.grpo import Above, Below, grpo
from offaxis.objectives.opd import opd
from offaxis.objectives.reverse_kl_by_k1 import reverse_kl_by_k1

Form = Literal["loss", "advantages", "additive"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Coefficient = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def _facts(settings: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Mixed advantages need the sampled token's log-ratio; mixed losses need none."""
    if settings.get("form", "loss") == "loss":
        return ()
    return ("logprobs", "teacher_logprobs")


def components(
    batch: TokenBatch,
    *,
    alpha: float = 0.5,
    form: Form = "loss",
    coefficient: float = 1.0,
    match_norms: bool = False,
    **clips: float,
) -> dict[str, Component]:
    """The objectives that are mixed, each with its weight; settings as of `mixed`.

    Their weighted gradients add up to the mixture's: exactly for `loss`, and for mixed advantages
    where no ratio is clipped.
    """
    reinforced = grpo(batch, **clips)
    if form == "loss":
        return {"opd": Component(alpha, opd(batch)), "grpo": Component(1 - alpha, reinforced)}
    distilled = reverse_kl_by_k1(batch, **clips)
    weights = (coefficient, 1.0) if form == "additive" else (alpha, 1 - alpha)
    return {"opd": Component(weights[0], distilled), "grpo": Component(weights[1], reinforced)}


@objective(
    rollouts=True,
    teacher=True,
    rewards=True,
    facts=_facts,
    components=components,
    source="arXiv:2606.07082, appendix G.2 (convex advantages)",
)
def mixed(
    batch: TokenBatch,
    *,
    alpha: Share = 0.5,
    form: Form = "loss",
    coefficient: Coefficient = 1.0,
    match_norms: bool = False,
    clip_low: Below = 0.2,
    clip_high: Above = 0.28,
) -> Streams:
    """On-policy distillation (share alpha) and GRPO (the rest) on the same rollouts.

    `loss`: alpha times the full-vocabulary reverse KL plus 1 - alpha times GRPO's loss.
    `advantages`, as published: A = alpha (log q - log p) + (1 - alpha) A_GRPO, teacher q and
    student p of the sampled token, neither normalised. `additive`, as other stacks have it:
    A = A_GRPO + coefficient (log q - log p), without alpha. With `match_norms` the gradient of GRPO
    is scaled to the norm of the other's before both are weighed. At alpha 1 and 0 the first two
    forms are the pure objectives.
    """
    parts = components(
        batch,
        alpha=alpha,
        form=form,
        coefficient=coefficient,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    (of_opd, distilled), (of_grpo, reinforced) = parts["opd"], parts["grpo"]
    assert reinforced.advantages_BT is not None
    advantages_BT = of_grpo * reinforced.advantages_BT
    if distilled.advantages_BT is not None:
        advantages_BT = advantages_BT + of_opd * distilled.advantages_BT
        return reinforced._replace(advantages_BT=advantages_BT, normaliser=None)
    assert distilled.divergence_BT is not None
    return reinforced._replace(
        advantages_BT=advantages_BT,
        divergence_BT=of_opd * distilled.divergence_BT,
        divergence=distilled.divergence,
        normaliser=None,
    )
