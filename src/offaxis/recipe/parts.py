"""The parts of a recipe: every table and key, its type, its default, and what it means."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from offaxis.recipe.confinement import Mask, RunSource, Subspace, UpdateSource
from offaxis.recipe.data import Data, Rewards
from offaxis.recipe.models import ModelSource, Seed, TeacherSource
from offaxis.recipe.sampling import Rollouts, Tokens
from offaxis.recipe.table import Table

# A running average: AdamW divides by what is missing to 1.
Decay = Annotated[float, Field(ge=0, le=0.999_999)]
# Far beyond what trains, and what AdamW makes of it still fits into float32.
Rate = Annotated[float, Field(gt=0, le=1e30)]
# Part of the names of folders, to which file systems set a limit.
_NAME_LENGTH = 100


class ObjectiveChoice(Table):
    """An objective by name; its settings are further keys of the same table."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def settings(self) -> dict[str, Any]:
        """The objective's own settings, those left out at their defaults."""
        return dict(self.model_extra or {})


class Optimizer(Table):
    """The optimizer and its schedule; `micro_batches` splits a step to save memory.

    Attributes:
        kind: `adamw` (its beta1, beta2, epsilon; weight decay decoupled), or `sgd` (its momentum;
            weight decay in the gradient).
        final_lr: What the cosine falls to.
    """

    later: ClassVar[frozenset[str]] = frozenset({"kind", "momentum", "final_lr"})

    lr: Rate
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 5
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat = 1.0
    micro_batches: PositiveInt = 1
    kind: Literal["adamw", "sgd"] = "adamw"
    momentum: Decay = 0.9

    @model_validator(mode="after")
    def _falls(self) -> "Optimizer":
        if self.final_lr and (self.schedule != "cosine" or self.final_lr > self.lr):
            raise ValueError("final_lr, at most lr, is where schedule = 'cosine' ends")
        return self


class Precision(Table):
    """What the numbers are made of, recorded because it decides what updates look like.

    Weights kept in bf16 lose every step below half an ulp, which makes updates sparse by rounding
    alone; master weights are therefore float32, and only products may be less. That control is
    `weights = "bfloat16"`: the weights themselves, their gradients and the optimizer's state. With
    `stochastic_rounding` a step is rounded up or down at random, right on average (keyed by seed
    and step). Checkpoints are float32 files either way.

    On the CPU a recipe repeats bit for bit; `device = "auto"` takes an accelerator where there is
    one, for models that need it.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"device", "stochastic_rounding", "gradient_checkpointing"}
    )

    weights: Literal["float32", "bfloat16"] = "float32"
    stochastic_rounding: bool = False
    autocast: Literal["none", "bfloat16"] = "bfloat16"
    attention: Literal["eager", "sdpa"] = "eager"
    threads: int = Field(default=1, ge=1, le=1024)
    checkpoints: Literal["float32"] = "float32"
    device: Literal["cpu", "auto"] = "cpu"
    # Layers are computed twice instead of being kept: less memory, a third more time.
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _rounds_what_is_narrow(self) -> "Precision":
        if self.stochastic_rounding and self.weights != "bfloat16":
            raise ValueError("stochastic_rounding needs weights = 'bfloat16'")
        return self


class Steps(Table):
    """When a run ends: after `max` steps, or earlier at an accuracy or a distance.

    Attributes:
        max: Optimizer steps at most.
        stop_at_accuracy: The greedy accuracy to stop at; 0 never stops early.
        check_every: Steps between checks.
        check_problems: How many problems a check solves; others than the run is judged on.
        stop_at_norm: The relative norm of the update, ||W - W0|| / ||W0|| over the layer matrices,
            to stop at, for arms that are compared at equal norm; 0 never stops early.
    """

    later: ClassVar[frozenset[str]] = frozenset({"stop_at_norm"})

    max: int = Field(ge=1, le=10_000_000)
    stop_at_norm: NonNegativeFloat = 0.0
    stop_at_accuracy: float = Field(default=0.0, ge=0, le=1)
    check_every: PositiveInt = 5
    check_problems: PositiveInt = 256


class Checkpoints(Table):
    """Which steps' weights a run keeps; the start and the last one always are.

    Attributes:
        count: How many in all, log-spaced, where neither `every` nor `at` says which.
        every: One in so many steps.
        at: At these fractions of steps.max.
        optimizer_state: Whether the optimizer's state and its schedule are kept beside them.
        resume_every: Steps between two states that an interrupted run continues from; 0 writes them
            as often as it costs little. Which are written has no influence on the run.
    """

    later: ClassVar[frozenset[str]] = frozenset({"every", "at", "optimizer_state", "resume_every"})

    count: int = Field(default=12, ge=2, le=10_000)
    every: NonNegativeInt = 0
    at: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    optimizer_state: bool = False
    resume_every: NonNegativeInt = 0

    @model_validator(mode="after")
    def _has_one_schedule(self) -> "Checkpoints":
        if self.every and self.at:
            raise ValueError("give at most one of every and at; given: both")
        return self


class Evaluation(Table):
    """The fixed sets that a run is judged on, and how it solves them.

    Attributes:
        problems: Held-out problems for greedy accuracy, avg@n and pass@k.
        samples: The start's own samples (temperature 1) for KL(start || model).
        seed: The key of both sets and of the sampling.
        k: Of how many completions one has to solve a problem, for pass@k; 0 judges greedy
            completions alone.
        per_problem: Completions n sampled of each problem, at least k; 0 stands for k.
        temperature: How hot they are sampled.
    """

    later: ClassVar[frozenset[str]] = frozenset({"k", "per_problem", "temperature"})

    problems: PositiveInt = 1024
    samples: PositiveInt = 256
    seed: NonNegativeInt = 1_000_003
    k: NonNegativeInt = 0
    per_problem: NonNegativeInt = 0
    temperature: float = Field(default=1.0, ge=0.01)

    @property
    def completions(self) -> int:
        """Completions n sampled of each problem."""
        return (self.per_problem or self.k) if self.k else 0

    @model_validator(mode="after")
    def _has_enough_completions(self) -> "Evaluation":
        if self.completions < self.k:
            raise ValueError(
                f"per_problem has to be at least k; given: {self.per_problem} and {self.k}"
            )
        return self


class Recipe(Table):
    """Everything one run depends on."""

    arm: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=_NAME_LENGTH)
    name: str = Field(
        default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=_NAME_LENGTH
    )
    seed: Seed = 0
    start: ModelSource
    teacher: TeacherSource | None = None
    objective: ObjectiveChoice
    data: Data
    rollouts: Rollouts = Rollouts()
    rewards: Rewards = Rewards()
    tokens: Tokens | None = None
    optimizer: Optimizer
    precision: Precision = Precision()
    steps: Steps
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()
    subspace: Subspace | None = None
    mask: Mask | None = None

    @property
    def run_name(self) -> str:
        """The folder of the run: the given name, else the arm and the seed."""
        return self.name or f"{self.arm}-s{self.seed}"

    @model_validator(mode="after")
    def _is_confined_in_one_way(self) -> "Recipe":
        if self.subspace is not None and self.mask is not None:
            raise ValueError("give [subspace] or [mask], not both")
        form = self.subspace.form if self.subspace is not None else ""
        if self.precision.weights != "float32" and form in ("core", "right"):
            raise ValueError(
                f"subspace.form {form!r} is exact in float32 alone: bfloat16 weights round "
                "W0 + U M V' away; use precision.weights = 'float32', or form 'project'"
            )
        return self

    @property
    def resumed(self) -> UpdateSource | None:
        """The checkpoint whose weights the run starts from, where that is not its `start`."""
        subspace = self.subspace
        return subspace.of if subspace is not None and subspace.start == "resume" else None

    @property
    def prerequisites(self) -> "list[Recipe]":
        """The recipes of the models this run starts from, learns from, or is confined by."""
        sources: list[ModelSource | UpdateSource | RunSource | None]
        sources = [None if self.resumed else self.start, self.teacher]
        if self.subspace is not None:
            sources += [self.subspace.source, self.subspace.norm_of]
        if self.mask is not None:
            sources.append(self.mask.of)
        return [s.recipe for s in sources if s is not None and s.recipe is not None]

    def resolved(self) -> dict[str, Any]:
        """The whole recipe, defaults and prerequisites included, as TOML can hold it."""
        return self.model_dump(mode="json", exclude_none=True)


# A recipe holds sources and a source may hold a recipe; only here are both known.
for _source in (ModelSource, TeacherSource, UpdateSource, RunSource, Subspace, Mask, Recipe):
    _source.model_rebuild(_types_namespace={"Recipe": Recipe})
