"""What gradients are compared: full and masked, own and others' rollouts, and their mixture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.catalog import find
from offaxis.errors import UsageError
from offaxis.objectives.base import Objective
from offaxis.recipe import ModelSource, Recipe, Tokens
from offaxis.recipe.parts import ObjectiveChoice
from offaxis.tasks.base import Task
from offaxis.training.losses import LossModels
from offaxis.training.models import start_model
from offaxis.training.opening import Taught, open_teacher
from offaxis.training.rollouts import ends_of
from offaxis.training.rows import Rows
from offaxis.training.sources import Rollouts
from offaxis.training.tasks import generated_task, open_records, task_of
from offaxis.training.weighing import Weigher

FULL, TOKENS, OTHER, OFF_POLICY = "full", "full-tokens", "full-other-rollouts", "off-policy"
REINFORCED = "grpo"
BOUNDS = "bounds"
By = Literal["log_ratio", "random"]

_KEPT_BY: Mapping[By, str] = {"log_ratio": "top", "random": "random"}


@dataclass(frozen=True)
class Choice:
    """What is asked of a run.

    Attributes:
        step: The checkpoint whose gradients are taken; the first at or after a fifth by default.
        K: Directions of the locked subspace: those of the update up to that checkpoint.
        prompts: Prompts of the batch of rollouts.
        rows: Rollouts of one forward pass.
        keep: The fractions of tokens that masked gradients keep, of the largest log-ratio and at
            random.
        alphas: The shares of distillation in mixtures with GRPO on mixed advantages.
        matrices: Glob patterns of the names of layer matrices.
    """

    step: int | None = None
    K: int = 16
    prompts: int = 16
    rows: int = 64
    keep: Sequence[float] = (0.25, 0.5)
    alphas: Sequence[float] = (0.5,)
    matrices: Sequence[str] = ("*",)


class Opened(NamedTuple):
    """A run's model at one of its checkpoints, with what its recipe needs beside it."""

    recipe: Recipe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    taught: Taught


class Condition(NamedTuple):
    """Rollouts that are weighed in one way.

    Attributes:
        name: What the rows call it.
        recipe: Of the run, with the condition's token selection.
        rows: The rollouts.
    """

    name: str
    recipe: Recipe
    rows: Rows

    def weighed(self, opened: Opened) -> tuple[Rows, LossModels]:
        """The rows with their streams, and the models that their loss reads."""
        objective = find("offaxis.objectives", Objective, self.recipe.objective.kind)
        weigher = Weigher(self.recipe, objective, opened.taught.num_ids)
        whole = [slice(0, len(self.rows.input_ids_BS))]
        found = weigher.weigh(
            self.rows, whole, student=opened.model, teacher=opened.taught.model, step=1
        )
        models = LossModels.of(
            opened.model,
            self.recipe,
            objective,
            teacher=opened.taught.model,
            num_ids=opened.taught.num_ids,
        )
        return found.rows, models


def opened(recipe: Recipe, checkpoint: Path, out: Path) -> Opened:
    """Open a checkpoint of a run, and its teacher.

    Args:
        recipe: The run's.
        checkpoint: Its folder.
        out: The folder of runs and models, where the teacher is.

    Raises:
        UsageError: If the recipe does not distil on rollouts from a teacher that is a model here.
    """
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    if recipe.teacher is None or recipe.teacher.url is not None or not objective.rollouts:
        raise UsageError(
            f"run {recipe.run_name}",
            expected="a run of on-policy distillation, its teacher a model on this machine",
            found=f"objective {recipe.objective.kind}"
            + (", no teacher" if recipe.teacher is None else ""),
            do="name a run whose recipe has a [teacher] with path or recipe",
        )
    source = ModelSource(path=str(checkpoint))
    model, tokenizer = start_model(source, generated_task(recipe), recipe.precision, None)
    task = task_of(recipe, open_records(recipe), tokenizer, ends_of(model, tokenizer))
    taught = open_teacher(recipe, out, task, model, tokenizer)
    return Opened(recipe, model, tokenizer, task, taught)


def conditions(held: Opened, choice: Choice) -> Iterator[Condition]:
    """Yield the full gradient's rollouts first, then every other condition.

    Masked gradients keep tokens of the very same rollouts. Other rollouts of the same student on
    other prompts tell how far two samples of one law are apart, and the teacher's how far those of
    another law are. GRPO on the same rollouts tells what any gradient of this model has.
    """
    recipe = held.recipe.model_copy(
        update={"data": held.recipe.data.model_copy(update={"prompts": choice.prompts})}
    )
    own = drawn(held, recipe, step=1)
    yield Condition(FULL, recipe, own)
    kind = ObjectiveChoice.model_validate({"kind": "grpo"})
    yield Condition(REINFORCED, recipe.model_copy(update={"objective": kind, "tokens": None}), own)
    yield Condition(OTHER, recipe, drawn(held, recipe, step=2))
    yield Condition(OFF_POLICY, recipe, drawn(held, recipe, step=1, by_teacher=True))
    for keep in choice.keep:
        for by in _KEPT_BY:
            selected = recipe.model_copy(update={"tokens": Tokens(keep=keep, by=by)})
            yield Condition(_masked(keep, by), selected, own)


def mixture(held: Opened, choice: Choice, alpha: float, rows: Rows) -> Condition:
    """The condition of mixed advantages, on rollouts that are there."""
    kind = ObjectiveChoice.model_validate({"kind": "mixed", "alpha": alpha, "form": "advantages"})
    data = held.recipe.data.model_copy(update={"prompts": choice.prompts})
    recipe = held.recipe.model_copy(update={"objective": kind, "data": data, "tokens": None})
    return Condition(_mixed(alpha), recipe, rows)


def drawn(held: Opened, recipe: Recipe, step: int, *, by_teacher: bool = False) -> Rows:
    """Rollouts of the student, or of the teacher, with their rewards; keyed by seed and step."""
    how = recipe.rollouts.model_copy(
        update={"source": "teacher" if by_teacher else "student", "reuse": 1}
    )
    asked = recipe.model_copy(update={"rollouts": how})
    teacher = held.taught.model if by_teacher else None
    source = Rollouts(held.task, held.tokenizer, asked, teacher=teacher)
    return source.draw(held.model, step).rows


def arms_of(choice: Choice) -> tuple[str, ...]:
    """The names of everything that rows are given of, as arms of the study table."""
    masked = (_masked(keep, by) for keep in choice.keep for by in _KEPT_BY)
    mixed = map(_mixed, choice.alphas)
    return FULL, TOKENS, OTHER, OFF_POLICY, REINFORCED, *masked, *mixed, BOUNDS


def _masked(keep: float, by: By) -> str:
    return f"keep{100 * keep:g}-{_KEPT_BY[by]}"


def _mixed(alpha: float) -> str:
    return f"mixed{100 * alpha:g}"
