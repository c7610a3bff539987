"""The parts of a recipe: every table and key, its type, its default, and what it means."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_serializer,
    model_validator,
)

# What every random generator underneath can be seeded with.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# A running average: AdamW divides by what is missing to 1.
Decay = Annotated[float, Field(ge=0, le=0.999_999)]
# Far beyond what trains, and what AdamW makes of it still fits into float32.
Rate = Annotated[float, Field(gt=0, le=1e30)]
# Part of the names of folders, to which file systems set a limit.
_NAME_LENGTH = 100


class _Part(BaseModel):
    """A table of the recipe: no unknown keys, no change after reading.

    Attributes:
        later: Keys that came after the first runs; at their defaults they are left out of the
            resolved recipe, so that the hashes of earlier runs hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            key: value
            for key, value in content.items()
            if key not in self.later or getattr(self, key) != fields[key].default
        }


class ModelConfig(_Part):
    """A model of Qwen3's architecture, from scratch; the task's tokenizer gives the vocabulary."""

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    tie_word_embeddings: bool = True
    max_position_embeddings: PositiveInt = 64
    init_seed: Seed = 0
    init_std: PositiveFloat = 0.06

    @model_validator(mode="after")
    def _has_a_shape(self) -> "ModelConfig":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                "num_attention_heads has to be a multiple of num_key_value_heads; given: "
                f"{self.num_attention_heads} and {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim has to be even, for rotary positions turn pairs; given: {self.head_dim}"
            )
        return self


class ModelSource(_Part):
    """Where a model comes from: exactly one of a folder, a recipe, or a configuration."""

    path: str | None = None
    recipe: "Recipe | None" = None
    config: ModelConfig | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> "ModelSource":
        given = [key for key in ("path", "recipe", "config") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, recipe, config; given: {given or 'none'}")
        return self


class ObjectiveChoice(_Part):
    """An objective by name; its settings are further keys of the same table."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def settings(self) -> dict[str, Any]:
        """The objective's own settings, those left out at their defaults."""
        return dict(self.model_extra or {})


class Data(_Part):
    """What a step reads.

    Attributes:
        task: A task of `offaxis.tasks`.
        mixture: Documents of each kind in every step, for objectives on given tokens.
        prompts: Problems in every step, for objectives on rollouts.
    """

    task: str
    mixture: dict[str, PositiveInt] = Field(default_factory=dict)
    prompts: NonNegativeInt = 0


class Rollouts(_Part):
    """How completions are sampled: how many of each prompt, how hot, how long."""

    per_prompt: PositiveInt = 8
    # Colder, the scaled logits of a trained model leave float32.
    temperature: float = Field(default=1.0, ge=0.01)
    max_tokens: PositiveInt = 19


class Rewards(_Part):
    """What a rollout earns: the task's verdict, or a fair coin (the control)."""

    kind: Literal["verifier", "random"] = "verifier"


class Optimizer(_Part):
    """AdamW and its schedule; `micro_batches` splits a step to save memory, not to change it."""

    lr: Rate
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 5
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat = 1.0
    micro_batches: PositiveInt = 1


class Precision(_Part):
    """What the numbers are made of, recorded because it decides what updates look like.

    Weights kept in bf16 lose every step below half an ulp, which makes updates sparse by rounding
    alone; master weights and checkpoints are therefore float32, and only products may be less.

    On the CPU a recipe repeats bit for bit; `device = "auto"` takes an accelerator where there is
    one, for models that need it.
    """

    later: ClassVar[frozenset[str]] = frozenset({"device", "gradient_checkpointing"})

    weights: Literal["float32"] = "float32"
    autocast: Literal["none", "bfloat16"] = "bfloat16"
    attention: Literal["eager", "sdpa"] = "eager"
    threads: int = Field(default=1, ge=1, le=1024)
    checkpoints: Literal["float32"] = "float32"
    device: Literal["cpu", "auto"] = "cpu"
    # Layers are computed twice instead of being kept: less memory, a third more time.
    gradient_checkpointing: bool = False


class Steps(_Part):
    """When a run ends: after `max` steps, or at the first check that reaches an accuracy.

    Attributes:
        max: Optimizer steps at most.
        stop_at_accuracy: The greedy accuracy to stop at; 0 never stops early.
        check_every: Steps between checks.
        check_problems: How many problems a check solves; others than the run is judged on.
    """

    max: int = Field(ge=1, le=10_000_000)
    stop_at_accuracy: float = Field(default=0.0, ge=0, le=1)
    check_every: PositiveInt = 5
    check_problems: PositiveInt = 256


class Checkpoints(_Part):
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


class Evaluation(_Part):
    """The fixed sets that a run is judged on.

    Attributes:
        problems: Held-out problems for greedy accuracy.
        samples: The start's own samples (temperature 1) for KL(start || model).
        seed: The key of both sets.
    """

    problems: PositiveInt = 1024
    samples: PositiveInt = 256
    seed: NonNegativeInt = 1_000_003


class Recipe(_Part):
    """Everything one run depends on."""

    arm: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=_NAME_LENGTH)
    name: str = Field(
        default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=_NAME_LENGTH
    )
    seed: Seed = 0
    start: ModelSource
    teacher: ModelSource | None = None
    objective: ObjectiveChoice
    data: Data
    rollouts: Rollouts = Rollouts()
    rewards: Rewards = Rewards()
    optimizer: Optimizer
    precision: Precision = Precision()
    steps: Steps
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()

    @property
    def run_name(self) -> str:
        """The folder of the run: the given name, else the arm and the seed."""
        return self.name or f"{self.arm}-s{self.seed}"

    @property
    def prerequisites(self) -> "list[Recipe]":
        """The recipes of the models this run starts from or learns from."""
        sources = (self.start, self.teacher)
        return [s.recipe for s in sources if s is not None and s.recipe is not None]

    def resolved(self) -> dict[str, Any]:
        """The whole recipe, defaults and prerequisites included, as TOML can hold it."""
        return self.model_dump(mode="json", exclude_none=True)


# A recipe holds sources and a source may hold a recipe; only here are both known.
ModelSource.model_rebuild()
