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

from offaxis.checkpoints.hub import HubId
from offaxis.recipe.confinement import Mask, RunSource, Subspace, UpdateSource
from offaxis.recipe.data import Data, Rewards
from offaxis.recipe.table import Table as _Part

# What every random generator underneath can be seeded with.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# A running average: AdamW divides by what is missing to 1.
Decay = Annotated[float, Field(ge=0, le=0.999_999)]
# Far beyond what trains, and what AdamW makes of it still fits into float32.
Rate = Annotated[float, Field(gt=0, le=1e30)]
# Part of the names of folders, to which file systems set a limit.
_NAME_LENGTH = 100


class ModelConfig(_Part):
    """A model of Qwen3's architecture, from scratch; the task's tokenizer gives the vocabulary.

    Attributes:
        num_experts: Of a mixture of experts in the place of every MLP; 0 for one MLP.
        num_experts_per_tok: How many of them a token passes through.
        moe_intermediate_size: The width of each.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"num_experts", "num_experts_per_tok", "moe_intermediate_size"}
    )

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
    num_experts: NonNegativeInt = 0
    num_experts_per_tok: NonNegativeInt = 0
    moe_intermediate_size: NonNegativeInt = 0

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

    @model_validator(mode="after")
    def _has_all_of_its_experts(self) -> "ModelConfig":
        experts = self.num_experts, self.num_experts_per_tok, self.moe_intermediate_size
        if any(experts) and not (all(experts) and experts[1] <= experts[0]):
            raise ValueError(
                "num_experts, num_experts_per_tok (at most as many) and moe_intermediate_size "
                f"belong together; given: {', '.join(map(str, experts))}"
            )
        return self


class ModelSource(_Part):
    """Where a model comes from: exactly one of a folder, the hub, a recipe, or a configuration.

    Attributes:
        path: A Hugging Face folder.
        hub: A model of the hub as `org/name@revision`; its safetensors and JSON files are fetched.
        recipe: The recipe whose last checkpoint it is.
        config: A new model of this shape.
        parameters: How many it has: a plan counts with them where its files are not here. A model
            of the hub needs it, for plans are made before it is fetched.
        active_parameters: Those that a token meets, where not all do (a mixture of experts).
    """

    kinds: ClassVar[tuple[str, ...]] = ("path", "hub", "recipe", "config")

    path: str | None = None
    hub: str | None = None
    recipe: "Recipe | None" = None
    config: ModelConfig | None = None
    parameters: PositiveInt | None = None
    active_parameters: PositiveInt | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> "ModelSource":
        given = [key for key in self.kinds if getattr(self, key) is not None]
        if len(given) != 1:
            known = ", ".join(self.kinds)
            raise ValueError(f"give exactly one of {known}; given: {given or 'none'}")
        return self

    @model_validator(mode="after")
    def _names_a_revision(self) -> "ModelSource":
        if self.hub is not None and HubId.read(self.hub) is None:
            raise ValueError(f"hub is written org/name@revision; given: {self.hub!r}")
        return self

    @model_validator(mode="after")
    def _is_counted_once(self) -> "ModelSource":
        is_known = self.recipe is not None or self.config is not None
        if is_known and (self.parameters or self.active_parameters):
            raise ValueError("the parameters of a recipe or a config are counted; leave them out")
        if self.hub is not None and self.parameters is None:
            raise ValueError("a model of the hub needs `parameters`: how many it has")
        return self


class TeacherSource(ModelSource):
    """A teacher: a model as any other, or one that a server serves.

    Attributes:
        url: Where the server listens; in place of path, hub, recipe and config.
        model: The name it serves the model under (vLLM).
        engine: Whose requests it takes.
        deadline_seconds: How long a question may go unanswered before the run stops.
    """

    later = frozenset({"url", "model", "engine", "deadline_seconds"})
    kinds = (*ModelSource.kinds, "url")

    url: str | None = None
    model: str = ""
    engine: Literal["vllm", "sglang"] = "vllm"
    deadline_seconds: PositiveFloat = 600.0


class ObjectiveChoice(_Part):
    """An objective by name; its settings are further keys of the same table."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def settings(self) -> dict[str, Any]:
        """The objective's own settings, those left out at their defaults."""
        return dict(self.model_extra or {})


class Rollouts(_Part):
    """How completions are sampled: from whom, how many of each prompt, how hot, how long.

    Attributes:
        source: Who samples: the student now, the student of `lag` optimizer steps ago (for the
            first `lag` steps the start), the start for ever (the anchor), or the teacher.
        lag: The steps of a stale source; it keeps lag + 1 copies of the trained weights.
        reuse: Optimizer steps for one drawing: it draws the prompts of all of them, each step
            learns from its own share, and the later ones from samples as many steps older.
        importance: How tokens are weighed for not being the student's own, by the recorded
            sampling log-probabilities: not at all, each by its ratio, or by its sequence's. With
            weights a policy ratio is taken to the student at the beginning of the step
            (`offaxis.objectives.importance`).
        importance_cap: The largest weight.
        proximal: What a policy ratio is taken to: the weights that sampled, which corrects within
            the clip, or the student at the beginning of the step, which corrects nothing.
        rows: Completions sampled at once at most; 0 sets no limit.
        engine: What samples: `generate` in this process, or a server of the given kind. A server
            samples at temperature 1, where all agree what a log-probability is, and does not
            repeat bit for bit.
        url: Where that server listens.
        model: The name it serves the model under (vLLM).
        weights: A folder that both this process and the server see. The weights to sample from are
            written there and the server loads them, before every drawing.
        deadline_seconds: How long the server may leave a question unanswered.
    """

    later = frozenset(
        {
            *("source", "lag", "reuse", "importance", "importance_cap", "proximal", "rows"),
            *("engine", "url", "model", "weights", "deadline_seconds"),
        }
    )

    per_prompt: PositiveInt = 8
    # Colder, the scaled logits of a trained model leave float32.
    temperature: float = Field(default=1.0, ge=0.01)
    max_tokens: PositiveInt = 19
    source: Literal["student", "stale", "anchor", "teacher"] = "student"
    lag: NonNegativeInt = 0
    reuse: PositiveInt = 1
    importance: Literal["none", "token", "sequence"] = "none"
    importance_cap: PositiveFloat = 2.0
    proximal: Literal["sampler", "student"] = "sampler"
    rows: NonNegativeInt = 0
    engine: Literal["generate", "vllm", "sglang"] = "generate"
    url: str | None = None
    model: str = ""
    weights: str | None = None
    deadline_seconds: PositiveFloat = 600.0

    @model_validator(mode="after")
    def _says_how_stale(self) -> "Rollouts":
        if (self.source == "stale") is not (self.lag > 0):
            raise ValueError(
                f'source = "stale" and a lag of at least 1 belong together; given: {self.source!r} '
                f"and {self.lag}"
            )
        return self

    @model_validator(mode="after")
    def _says_which_server(self) -> "Rollouts":
        served = self.engine != "generate"
        if served is not (self.url is not None):
            raise ValueError(f"engine and url belong together; given: {self.engine}, {self.url}")
        if served and self.temperature != 1:
            raise ValueError(f"a server samples at temperature 1; given: {self.temperature}")
        if served and self.source == "teacher":
            raise ValueError(
                "the teacher samples where [teacher] says it is; remove engine and url"
            )
        if (self.weights is not None) is not (served and self.source in ("student", "stale")):
            raise ValueError(
                "weights is the folder through which a server gets the student's weights: it "
                'belongs to an engine with source = "student" or "stale", and only there; '
                'with source = "anchor" the server serves the start'
            )
        if self.weights is not None and self.engine == "vllm":
            raise ValueError(
                "vLLM documents no request that loads weights from a folder; sample from a fixed "
                'model (source = "anchor"), or use sglang or generate'
            )
        return self

    @property
    def asks_student(self) -> bool:
        """Whether the step needs the student's own log-probabilities before it begins."""
        return self.importance != "none" or self.proximal == "student"


class Tokens(_Part):
    """Token sparsification: a loss on a fraction of each rollout's tokens.

    Attributes:
        keep: The fraction, rounded up to whole tokens of each sample.
        by: Which are kept: those of the largest log p_student - log p_teacher of the sampled token
            (signed), of the largest entropy of the student, of the largest reverse KL over the
            whole vocabulary, or random ones keyed by seed and step.
        compensate: Whether the kept ones are scaled so that each sample weighs as much as before.
    """

    keep: float = Field(gt=0, le=1)
    by: Literal["log_ratio", "entropy", "divergence", "random"]
    compensate: bool = True


class Optimizer(_Part):
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


class Precision(_Part):
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


class Steps(_Part):
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


class Recipe(_Part):
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
