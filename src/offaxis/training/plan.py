"""What a recipe will do, before it does it: models and steps, tokens, bytes on disk, minutes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from offaxis.catalog import find
from offaxis.objectives.base import Objective
from offaxis.recipe import ModelConfig, ModelSource, Recipe
from offaxis.training.cost import Work
from offaxis.training.folders import is_finished, model_folder, run_folder, trained_folder
from offaxis.training.memory import Batch, peak_bytes
from offaxis.training.schedule import evaluated_steps, planned_steps
from offaxis.training.tasks import generated_task, open_records

# Seconds of one core, fitted to runs of the tiny laboratory on an AVX-512 bf16 core: a step costs
# its floating-point operations (6 a parameter and token, forward and backward) and an overhead, a
# sampled position the overhead of one call. Estimates, within about a factor of two elsewhere.
_FLOPS = 1.2e11
_STEP_SECONDS = 0.02
_SAMPLED_TOKEN_SECONDS = 0.0035
_START_SECONDS = 3.0


class Stage(NamedTuple):
    """One model to train.

    Attributes:
        name: The run or the prerequisite.
        steps: Optimizer steps at most.
        tokens: Tokens read in training, at most.
        checkpoint_bytes: What its checkpoints take on disk.
        seconds: Estimated time on one core; on one accelerator where the recipe takes one.
        is_finished: Whether it is there already and will be reused.
        peak_bytes: Memory that a step will hold, estimated.
        work: Its floating-point operations; None where the recipe keeps it on a core.
        absent: Data files and model folders that are not here yet; of data bounds are taken.
    """

    name: str
    steps: int
    tokens: int
    checkpoint_bytes: int
    seconds: float
    is_finished: bool
    peak_bytes: int
    work: Work | None = None
    absent: tuple[str, ...] = ()


def plan(recipe: Recipe, out: Path, *, is_run: bool = True) -> list[Stage]:
    """The stages of a recipe in order, prerequisites first and each once.

    Args:
        recipe: What to train.
        out: The folder of runs and models.
        is_run: Whether it goes among the runs, or is a prerequisite itself.

    Raises:
        RecipeError: If the run's folder holds something else.
    """
    stages: dict[str, Stage] = {}
    _add_prerequisites(recipe, out, stages)
    folder = (run_folder if is_run else model_folder)(recipe, out)
    stage = _stage(recipe, folder.root.name, is_finished(folder, recipe))
    return [*stages.values(), stage]


def _add_prerequisites(recipe: Recipe, out: Path, stages: dict[str, Stage]) -> None:
    for prerequisite in recipe.prerequisites:
        _add_prerequisites(prerequisite, out, stages)
        folder = trained_folder(prerequisite, out)
        name = folder.root.name
        stages.setdefault(name, _stage(prerequisite, name, is_finished(folder, prerequisite)))


def _stage(recipe: Recipe, name: str, is_done: bool) -> Stage:
    """Count and estimate one model's training."""
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    width, learned, longest, vocabulary = _lengths(recipe)
    if objective.rollouts:
        tokens, longest = recipe.data.prompts * recipe.rollouts.per_prompt * width, width
    else:
        tokens = learned
    planned = planned_steps(recipe)
    parameters = _parameters_of(recipe.start, vocabulary)
    met = _active_of(recipe.start, vocabulary)
    evaluation = recipe.evaluation
    completed = evaluation.problems * (1 + evaluation.completions) + evaluation.samples
    judged = completed * width * len(evaluated_steps(planned))
    checked = 0
    if recipe.steps.stop_at_accuracy:
        num_checks = recipe.steps.max // recipe.steps.check_every
        checked = num_checks * recipe.steps.check_problems // 2 * width
    seconds = _START_SECONDS + 6 * met * (judged + checked) / _FLOPS
    work = None if recipe.precision.device == "cpu" else _work(recipe, tokens, judged + checked)
    step_seconds = _STEP_SECONDS + 6 * met * tokens / _FLOPS
    if objective.rollouts:
        step_seconds += recipe.rollouts.max_tokens * _SAMPLED_TOKEN_SECONDS
    is_served = recipe.teacher is not None and recipe.teacher.url is not None
    taught = 0 if is_served else _parameters_of(recipe.teacher, vocabulary)
    if not is_served:
        step_seconds += 2 * _active_of(recipe.teacher, vocabulary) * tokens / _FLOPS
    peak = peak_bytes(
        recipe,
        objective,
        Batch(-(-tokens // longest), longest),
        parameters=parameters,
        teacher_parameters=taught,
        vocabulary=vocabulary,
        config=_config_of(recipe.start),
    )
    return Stage(
        name,
        recipe.steps.max,
        tokens * recipe.steps.max,
        4 * parameters * len(planned),
        seconds + step_seconds * recipe.steps.max if work is None else work.seconds,
        is_done,
        peak,
        work,
        (*absent_files(recipe), *_absent_models(recipe)),
    )


def _work(recipe: Recipe, tokens: int, judged: int) -> Work:
    """The operations of a run whose steps read so many tokens, and that is judged on so many."""
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    active, taught = _active_of(recipe.start), _active_of(recipe.teacher)
    read = tokens * recipe.steps.max
    rollouts, positions = recipe.rollouts, 0
    sampled = 2 * active * judged
    if objective.rollouts:
        sampled += 2 * (taught if rollouts.source == "teacher" else active) * read
        is_here = rollouts.engine == "generate" and rollouts.source != "teacher"
        positions = rollouts.max_tokens * recipe.steps.max // rollouts.reuse if is_here else 0
    passes = 8 if recipe.precision.gradient_checkpointing else 6
    return Work(passes * active * read, 2 * taught * read, sampled, recipe.steps.max, positions)


def _lengths(recipe: Recipe) -> tuple[int, int, int, int]:
    """Tokens of a problem with its completion, those learned in a step and in a row, vocabulary.

    Of data that are not of our making the bounds are taken; their models come from folders, which
    know their vocabulary.
    """
    task, mixture = generated_task(recipe), recipe.data.mixture
    if task is None:
        if not absent_files(recipe):
            open_records(recipe)  # what is wrong with them shall be said before training
        longest = recipe.data.max_tokens
        learned = longest * sum(mixture.values())
        return longest + recipe.rollouts.max_tokens, learned, longest, _vocabulary_of(recipe.start)
    problem = task.problem(seed=0, index=0)
    documents = {kind: task.document(kind, seed=0, index=0) for kind in mixture}
    lengths = {kind: len(each.prompt + each.answer) for kind, each in documents.items()}
    width, longest = len(problem.prompt) + task.answer_length, max(lengths.values(), default=1)
    learned = sum(count * lengths[kind] for kind, count in mixture.items())
    return width, learned, longest, len(task.alphabet)


def absent_files(recipe: Recipe) -> tuple[str, ...]:
    """The data files of a recipe that are not here."""
    data = recipe.data
    return tuple(f for f in (*data.files, *data.evaluation_files) if not Path(f).exists())


def _absent_models(recipe: Recipe) -> Iterator[str]:
    """The folders of foreign models that are not here."""
    for source in (recipe.start, recipe.teacher):
        if source is not None and source.path is not None and not Path(source.path).exists():
            yield source.path


def _vocabulary_of(source: ModelSource) -> int:
    """Entries of a row of a foreign model's logits, 0 where its configuration does not say."""
    if source.recipe is not None:
        return _vocabulary_of(source.recipe.start)
    if source.path is None:
        return 0
    try:
        config = json.loads((Path(source.path) / "config.json").read_text("utf-8"))
        return int(config.get("text_config", config).get("vocab_size", 0))
    except (OSError, ValueError, AttributeError):  # training will say what is wrong with it
        return 0


def num_parameters(config: ModelConfig, vocabulary: int) -> int:
    """Parameters of a model of Qwen3's architecture."""
    hidden, head = config.hidden_size, config.head_dim
    attention = 2 * hidden * head * (config.num_attention_heads + config.num_key_value_heads)
    feed_forward = 3 * hidden * config.intermediate_size
    if config.num_experts:
        expert = 3 * hidden * config.moe_intermediate_size
        feed_forward = config.num_experts * (expert + hidden)  # and its row of the router
    layer = attention + feed_forward + 2 * hidden + 2 * head
    embeddings = vocabulary * hidden * (1 if config.tie_word_embeddings else 2)
    return config.num_hidden_layers * layer + embeddings + hidden


def _config_of(source: ModelSource) -> ModelConfig | None:
    """The shape of a source's model, where recipes alone made it."""
    while source.recipe is not None:
        source = source.recipe.start
    return source.config


def _parameters_of(source: ModelSource | None, vocabulary: int) -> int:
    """Parameters of a source's model, however many recipes ago it was made."""
    if source is None:
        return 0
    if source.config is not None:
        return num_parameters(source.config, vocabulary)
    if source.recipe is not None:
        return _parameters_of(source.recipe.start, vocabulary)
    if source.path is None:  # on the hub, or behind a server
        return source.parameters or 0
    # A foreign folder: what its files hold, as if in float32.
    files = Path(source.path).glob("*.safetensors")
    return sum(file.stat().st_size for file in files) // 4 or source.parameters or 0


def _active_of(source: ModelSource | None, vocabulary: int = 0) -> int:
    """Parameters that a token meets on its way through a source's model."""
    while source is not None and source.recipe is not None:
        source = source.recipe.start
    if source is None:
        return 0
    if source.config is not None:
        met = {"num_experts": source.config.num_experts_per_tok}
        return num_parameters(source.config.model_copy(update=met), vocabulary)
    return source.active_parameters or _parameters_of(source, vocabulary)
