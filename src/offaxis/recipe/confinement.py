"""The tables that say where in weight space a run may move: subspaces, masks, whose they are."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from offaxis.recipe.table import Table

if TYPE_CHECKING:
    from offaxis.recipe.parts import Recipe


class RunSource(Table):
    """Another run: its folder, or its recipe, which is then a prerequisite."""

    path: str | None = None
    recipe: "Recipe | None" = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> "RunSource":
        if (self.path is None) is (self.recipe is None):
            raise ValueError("give exactly one of path and recipe")
        return self


class UpdateSource(Table):
    """The update of another run at one of its checkpoints.

    Attributes:
        path: The folder of the checkpoint.
        anchor: The folder it was trained from; `checkpoint-0` beside the checkpoint by default.
        recipe: Instead of both the run's recipe, which is then a prerequisite.
        step: Of a recipe's run, the first checkpoint at or after this step ...
        fraction: ... or at or after this fraction of its steps; the last one by default.
    """

    path: str | None = None
    anchor: str | None = None
    recipe: "Recipe | None" = None
    step: PositiveInt | None = None
    fraction: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _is_one_thing(self) -> "UpdateSource":
        if (self.path is None) is (self.recipe is None):
            raise ValueError("give exactly one of path and recipe")
        if self.path is not None and (self.step or self.fraction):
            raise ValueError("step and fraction choose a checkpoint of a recipe; path is one")
        if self.recipe is not None and self.anchor is not None:
            raise ValueError("anchor goes with path; a recipe's run has its own")
        if self.step and self.fraction:
            raise ValueError("give step or fraction, not both")
        return self


class Subspace(Table):
    """Training inside a subspace of each matrix.

    Attributes:
        form: How updates are kept inside. `gradient`: gradients are projected before the optimizer
            (as published; AdamW leaves the subspace all the same). `right`: W = W0 + B V', the
            optimizer holds B. `core`: W = W0 + U M V', the optimizer holds M. `project`: the update
            is projected after each step. `none`: nothing is; the control of `frozen` alone, whose
            leakage is logged like that of the others.
        rank: Directions of each matrix.
        basis: Whose directions: leading singular vectors of an update, or of the gradient at the
            start on the first step's data, or random ones keyed by the seed.
        of: The update, where the basis is one or the run resumes from its checkpoint.
        start: `resume` from the weights of that checkpoint, or from the recipe's own start.
            Steps, schedule and data are counted from 1 either way.
        sides: For `project` and `none`, inputs (`right`) or inputs and outputs (`both`).
        matrices: Glob patterns of the names of layer matrices to constrain.
        frozen: What else is frozen.
        norm_of: A run whose `update_norm` this run's update is scaled to after each step.
    """

    form: Literal["gradient", "right", "core", "project", "none"]
    rank: PositiveInt
    basis: Literal["update", "gradient", "random"] = "update"
    of: UpdateSource | None = None
    start: Literal["resume", "anchor"] = "resume"
    sides: Literal["right", "both"] | None = None
    matrices: list[str] = Field(default=["*"], min_length=1)
    frozen: Literal["others", "none"] = "others"
    norm_of: RunSource | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Subspace":
        if self.of is None and self.basis == "update":
            raise ValueError("basis 'update' needs [subspace.of]: the checkpoint to take it from")
        if self.of is None and self.start == "resume":
            raise ValueError("start 'resume' needs [subspace.of]; or set subspace.start='anchor'")
        if self.sides is not None and self.form not in ("project", "none"):
            raise ValueError(f"sides is fixed for form {self.form!r}; leave it out")
        return self

    @property
    def source(self) -> UpdateSource | None:
        """`of`, where something is read of it."""
        return self.of if self.basis == "update" or self.start == "resume" else None

    @property
    def is_two_sided(self) -> bool:
        """Whether outputs are constrained, too."""
        return self.form == "core" or self.sides == "both"


class Mask(Table):
    """Training of chosen coordinates of each matrix; all others stay as they start, bit for bit.

    Attributes:
        kind: `update`: where another run's update shows in bfloat16; `principal`: the largest
            entries of the start's rank-`rank` part; `low_magnitude`: the start's smallest entries;
            `not_principal`: the smallest entries of that part; `not_principal_or_low`: these, and
            the start's smallest as well, so that the mask is denser than either; `random`: drawn,
            keyed by the seed.
        of: The run of `update`; for the others, the run whose mask gives each matrix its density.
        density: Or one density for all matrices; of a union, that of each part.
        rank: The rank of the principal part.
        matrices: Glob patterns of the names of layer matrices to mask.
        frozen: What else is frozen.
    """

    kind: Literal[
        "update",
        "principal",
        "low_magnitude",
        "not_principal",
        "not_principal_or_low",
        "random",
    ]
    of: UpdateSource | None = None
    density: float | None = Field(default=None, gt=0, le=1)
    rank: PositiveInt = 64
    matrices: list[str] = Field(default=["*"], min_length=1)
    frozen: Literal["others", "none"] = "others"

    @model_validator(mode="after")
    def _has_a_density(self) -> "Mask":
        if (self.of is None) is (self.density is None):
            raise ValueError("give exactly one of [mask.of] and density")
        if self.kind == "update" and self.of is None:
            raise ValueError("kind 'update' needs [mask.of]: the run whose update is the mask")
        return self
