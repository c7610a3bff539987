"""Whether data and rewards fit together, and the rest of the recipe fits them."""

from collections.abc import Sequence

from pydantic import ValidationError

from offaxis.catalog import collect, find, settings_model, suggestion
from offaxis.data.columns import LAYOUTS
from offaxis.errors import CatalogError, RecipeError
from offaxis.objectives.base import Objective
from offaxis.recipe.data import Data
from offaxis.recipe.parts import Recipe
from offaxis.recipe.refusal import explained, refusal
from offaxis.rewards.base import Reward
from offaxis.tasks.base import GeneratedTask

# The keys that only some sources read, and the source that each belongs to.
_OF_FILES = ("layout", "columns", "evaluation_files")
_OF_GYM = ("gym_settings", "gym_threshold")
_OF_BOTH = ("held_out", "template", "template_settings", "max_tokens")


def check_data(recipe: Recipe, objective: Objective, where: str) -> None:
    """Refuse data that do not exist once, kinds they do not have, and rewards they cannot earn.

    Raises:
        RecipeError: With the key and what is known there.
    """
    data = recipe.data
    given = [key for key in ("task", "files", "gym") if getattr(data, key)]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise refusal(where, "data", "exactly one of task, files, gym", found, "keep one of them")
    foreign = {"task": _OF_FILES + _OF_GYM + _OF_BOTH, "files": _OF_GYM, "gym": _OF_FILES}
    fields = Data.model_fields
    for key in foreign[given[0]]:
        if getattr(data, key) != fields[key].default:
            found = f"it beside data.{given[0]}"
            raise refusal(where, f"data.{key}", "no such key", found, "remove it")
    kinds = _kinds(data, where)
    unknown = sorted(set(data.mixture) - set(kinds))
    if unknown:
        expected = f"kinds of documents: {', '.join(kinds)}"
        raise refusal(where, "data.mixture", expected, unknown[0], suggestion(unknown[0], kinds))
    if not data.task and recipe.start.config is not None:
        raise refusal(
            where,
            "start.config",
            "a model with a tokenizer",
            f"a model from scratch, which data.{given[0]} has no alphabet for",
            "start from a folder: start.path",
        )
    if data.files:
        _check_columns(recipe, where)
    _check_rewards(recipe, objective, where)


def rule_of(recipe: Recipe) -> Reward | None:
    """The reward that tells right from wrong in this recipe; None where the task itself does."""
    rewards = collect("offaxis.rewards", Reward)
    kind = rewards.get(recipe.rewards.kind)
    return kind if kind is not None and kind.is_rule else rewards.get(recipe.rewards.judge)


def _kinds(data: Data, where: str) -> Sequence[str]:
    """The kinds of documents that can be learned from."""
    if data.files:
        return ("demonstrations",)
    if data.gym:
        return ("answers",)
    try:
        return tuple(find("offaxis.tasks", GeneratedTask, data.task).kinds)
    except CatalogError as error:
        raise RecipeError(where, expected=error.expected, found=error.found, do=error.do) from error


def _check_columns(recipe: Recipe, where: str) -> None:
    """Refuse files of which the needed columns are not known."""
    data = recipe.data
    if data.layout and data.layout not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        do = suggestion(data.layout, LAYOUTS)
        raise refusal(where, "data.layout", f"one of {known}", repr(data.layout), do)
    columns = data.chosen_columns
    if not columns.prompt and not columns.messages:
        do = "set data.columns.prompt, data.columns.messages or data.layout"
        raise refusal(where, "data.columns", "the column of the prompts", "none", do)
    if data.mixture and not columns.has_completion:
        do = "set data.columns.completion or data.columns.messages"
        raise refusal(where, "data.columns", "the column of the demonstrations", "none", do)


def _check_rewards(recipe: Recipe, objective: Objective, where: str) -> None:
    """Refuse unknown rewards, settings they do not have, and files that nothing could judge."""
    rewards, data = recipe.rewards, recipe.data
    every = collect("offaxis.rewards", Reward)
    rules = [name for name, item in every.items() if item.is_rule]
    _check_name(rewards.kind, ["verifier", *every], "rewards.kind", where)
    _check_name(rewards.judge or rules[0], rules, "rewards.judge", where)
    if rewards.judge and (rewards.kind in rules or data.task):
        reason = f"the verifier of {data.task}" if data.task else f"kind = {rewards.kind!r}"
        found = f"it beside {reason}, which judges already"
        raise refusal(where, "rewards.judge", "no second rule", found, "remove it")
    if data.task and rewards.kind in rules:
        found = f"kind = {rewards.kind!r}"
        expected = f"the verifier of {data.task}, or a control"
        raise refusal(where, "rewards.kind", expected, found, "set it to verifier")
    rule = rule_of(recipe)
    needs_rule = objective.rewards or recipe.steps.stop_at_accuracy > 0
    if data.files and needs_rule and rule is None:
        do = f"set rewards.kind to {' or '.join(rules)}; beside kind = 'random' set rewards.judge"
        raise refusal(where, "rewards", "a rule that judges completions", "none", do)
    if rule is None:
        for key in rewards.settings:
            raise refusal(
                where,
                f"rewards.{key}",
                "one of kind, judge, max_unscorable",
                f"an unknown key, for kind = {rewards.kind!r}",
                suggestion(key, ["kind", "judge", "max_unscorable"]),
            )
        return
    model = settings_model(rule.function)
    try:
        model.model_validate(rewards.settings)
    except ValidationError as error:
        raise explained(error, model, where, "rewards") from error


def _check_name(name: str, known: Sequence[str], key: str, where: str) -> None:
    if name not in known:
        expected = f"one of {', '.join(known)}"
        raise refusal(where, key, expected, repr(name), suggestion(name, known))
