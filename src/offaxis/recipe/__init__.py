"""The recipe: everything a run depends on, read from TOML, overridden, and refused when wrong.

A recipe is one run of one arm. Where it starts from or learns from another trained model, that
model's recipe is part of it: on disk by file name, resolved as a table. So a resolved recipe
reproduces its run alone, and its hash covers everything the run came from.
"""

from offaxis.recipe.bundled import recipes_folder
from offaxis.recipe.confinement import Mask, RunSource, Subspace, UpdateSource
from offaxis.recipe.models import ModelConfig, ModelSource, TeacherSource
from offaxis.recipe.parts import Evaluation, Optimizer, Precision, Recipe
from offaxis.recipe.reading import (
    apply_override,
    load_recipe,
    recipe_from,
    recipe_hash,
    recipe_text,
    sources_in,
)
from offaxis.recipe.rewriting import overriding, rewritten
from offaxis.recipe.sampling import Tokens

__all__ = [
    "Evaluation",
    "Mask",
    "ModelConfig",
    "ModelSource",
    "Optimizer",
    "Precision",
    "Recipe",
    "RunSource",
    "Subspace",
    "TeacherSource",
    "Tokens",
    "UpdateSource",
    "apply_override",
    "load_recipe",
    "overriding",
    "recipe_from",
    "recipe_hash",
    "recipe_text",
    "recipes_folder",
    "rewritten",
    "sources_in",
]
