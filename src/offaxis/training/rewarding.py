"""What completions earn, and what the log says of it.

Shapes: B completions.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from offaxis.catalog import collect, find
from offaxis.errors import NumericsError
from offaxis.objectives.base import Objective
from offaxis.recipe import Recipe
from offaxis.rewards.base import Reward
from offaxis.tasks.base import Document, Task


def rewarded(
    task: Task,
    recipe: Recipe,
    step: int,
    documents: Sequence[Document],
    completions: Sequence[str],
) -> Float[Tensor, "B"]:
    """What the completions of a step earn; NaN for those that cannot be judged.

    Raises:
        NumericsError: If the objective needs rewards, and more than `rewards.max_unscorable` of
            them are missing.
    """
    reward = collect("offaxis.rewards", Reward).get(recipe.rewards.kind)
    if reward is None or reward.is_rule:
        scores = task.scores(documents, completions)
    else:
        scores = reward()(documents, completions, key=f"rewards/{recipe.seed}/{step}")
    missing = sum(score is None for score in scores)
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    if objective.rewards and missing > recipe.rewards.max_unscorable * len(scores):
        raise NumericsError(
            f"run {recipe.run_name}, step {step}, rewards",
            expected=f"at most {recipe.rewards.max_unscorable:.0%} of the completions that cannot "
            "be judged",
            found=f"{missing} of {len(scores)}",
            do="see whether the rows have answers and the sandbox answers; raise "
            "rewards.max_unscorable if so many may be missing",
        )
    return torch.tensor([math.nan if score is None else score for score in scores])


def reward_measures(rewards_B: Float[Tensor, "B"]) -> dict[str, float]:
    """The mean reward of what could be judged, if anything could, and how many could not."""
    is_scored = ~rewards_B.isnan()
    measures = {"unscorable": float((~is_scored).sum())}
    if is_scored.any():
        measures["reward"] = float(rewards_B[is_scored].mean())
    return measures
