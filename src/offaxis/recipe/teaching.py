"""Whether a recipe's teacher fits what is asked of it."""

from offaxis.errors import RecipeError
from offaxis.objectives.base import Objective
from offaxis.recipe.parts import Recipe


def check_teacher(recipe: Recipe, objective: Objective, where: str) -> None:
    """Refuse a teacher that is missing, idle, or cannot tell what the objective asks.

    Raises:
        RecipeError: If so.
    """
    samples = objective.rollouts and recipe.rollouts.source == "teacher"
    scored = recipe.tokens is not None and recipe.tokens.by in ("log_ratio", "divergence")
    needed = objective.teacher or samples or scored
    if needed is not (recipe.teacher is not None):
        found, do = ("none", "name one") if needed else ("a teacher", "remove it")
        what = (
            "rollouts of the teacher" if samples else "these tokens" if scored else objective.name
        )
        expected = f"a teacher for {what}" if needed else f"no teacher for {objective.name}"
        raise _unfit(where, "teacher", expected, found, do)
    served = recipe.teacher is not None and recipe.teacher.url is not None
    if served and samples and recipe.rollouts.temperature != 1:
        found = str(recipe.rollouts.temperature)
        raise _unfit(where, "rollouts.temperature", "1, as a server samples", found, "set it to 1")
    if served and recipe.tokens is not None and recipe.tokens.by == "divergence":
        expected = "log_ratio, entropy or random: a server tells nothing of other tokens"
        raise _unfit(where, "tokens.by", expected, "'divergence'", "choose another")
    if served and objective.teacher and objective.needs_vocabulary(recipe.objective.settings):
        raise _unfit(
            where,
            "teacher.url",
            "a sampled-token objective: a server tells the log-probability of the sampled token, "
            "not of the whole vocabulary",
            f"{objective.name} with {recipe.objective.settings or 'its defaults'}",
            "give the teacher by path or recipe, or choose a sampled-token form",
        )


def _unfit(where: str, key: str, expected: str, found: str, do: str) -> RecipeError:
    return RecipeError(f"{where}, {key}", expected=expected, found=found, do=do)
