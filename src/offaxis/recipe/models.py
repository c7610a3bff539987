"""The tables that say which models a run knows: where each is from, or its shape if it is new."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from offaxis.checkpoints.hub import HubId
from offaxis.recipe.table import Table

if TYPE_CHECKING:
    from offaxis.recipe.parts import Recipe

# What every random generator underneath can be seeded with.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ModelConfig(Table):
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


class ModelSource(Table):
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
