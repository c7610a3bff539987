"""From the tables of a recipe to the constraints of its run."""

from collections.abc import Mapping

import torch
from torch.nn import Parameter

from offaxis.errors import RecipeError, UsageError
from offaxis.linalg.confinement import Subspace
from offaxis.linalg.shards import whole
from offaxis.recipe import Mask, Recipe
from offaxis.recipe import Subspace as SubspaceChoice
from offaxis.runs import RunFolder
from offaxis.training.confinement import Confinement
from offaxis.training.constraints.bases import leading_bases, random_bases, write_bases
from offaxis.training.constraints.coordinate_masks import coordinate_masks, write_masks
from offaxis.training.constraints.masks import MaskConstraint
from offaxis.training.constraints.sources import FindRun, find_norms, find_update
from offaxis.training.constraints.subspace import SubspaceConstraint
from offaxis.training.trainer import StreamTrainer
from offaxis.training.updates import Update, chosen, layer_matrices


def confine(
    trainer: StreamTrainer, recipe: Recipe, folder: RunFolder, find_run: FindRun
) -> Confinement:
    """Build what confines a run, freeze the rest, and record bases or masks in the run folder.

    Args:
        trainer: Its model has the weights of the run's start, on their device.
        recipe: The run's recipe.
        folder: The run folder.
        find_run: Where the run of a prerequisite is.

    Raises:
        UsageError: Under FSDP.
        RecipeError: If `matrices` names none, or a rank is too large.
        CheckpointError: If another run lacks what is taken from it.
        NumericsError: If an update or gradient has fewer directions than the rank.
    """
    choice: SubspaceChoice | Mask | None = recipe.subspace or recipe.mask
    if choice is None:
        return Confinement(trainer.model)
    if trainer.is_fsdp_enabled:
        raise UsageError(
            f"run {recipe.run_name}, the configuration of accelerate",
            expected="whole weights in every process (DDP) for a run in a subspace or a mask",
            found="FSDP, which puts other weights in the place of those that are to be confined",
            do="choose MULTI_GPU in `accelerate config`, or launch with torchrun",
        )
    layers = layer_matrices(trainer.model)
    matrices = chosen(layers, choice.matrices)
    if not matrices:
        raise RecipeError(
            f"run {recipe.run_name}, matrices",
            expected="patterns of the names of layer matrices, such as '*.q_proj.weight'",
            found=f"{choice.matrices}, which match none of {len(layers)}",
            do="correct the patterns",
        )
    update = Update(layers)
    if isinstance(choice, Mask):
        other = find_update(choice.of, find_run) if choice.of is not None else None
        starts = {name: update.starts[name] for name in matrices}
        masks = coordinate_masks(choice, starts, other, recipe.seed)
        if trainer.ranks.is_first:
            write_masks(masks, folder.root)
        _freeze(trainer, matrices, choice)
        return Confinement(trainer.model, update, [MaskConstraint(update, masks)])
    norms = find_norms(choice.norm_of, find_run, recipe.steps.max) if choice.norm_of else []
    bases = _bases(choice, trainer, matrices, find_run)
    if trainer.ranks.is_first:
        write_bases(bases, folder.root)
    _freeze(trainer, matrices, choice)
    constraint = SubspaceConstraint(
        update, bases, choice.form, is_two_sided=choice.is_two_sided, norms=norms
    )
    return Confinement(trainer.model, update, [constraint], constraint.held())


def _bases(
    choice: SubspaceChoice,
    trainer: StreamTrainer,
    matrices: Mapping[str, Parameter],
    find_run: FindRun,
) -> dict[str, Subspace]:
    """The subspace of each matrix."""
    if choice.basis == "random":
        return random_bases(matrices, choice.rank, trainer.recipe.seed)
    if choice.basis == "update":
        assert choice.of is not None
        found = find_update(choice.of, find_run)
        return leading_bases(
            matrices, choice.rank, lambda name: found.of(name, tuple(matrices[name].shape))
        )
    trainer.first_gradients()
    bases = leading_bases(matrices, choice.rank, lambda name: _gradient(matrices[name]))
    trainer.model.zero_grad()
    return bases


def _gradient(weight: Parameter) -> torch.Tensor:
    assert weight.grad is not None
    return whole(weight.grad).double().cpu()


def _freeze(
    trainer: StreamTrainer, matrices: Mapping[str, Parameter], choice: SubspaceChoice | Mask
) -> None:
    """Freeze what is not among the matrices, where the recipe says so."""
    for name, weight in trainer.model.named_parameters():
        weight.requires_grad_(choice.frozen == "none" or name in matrices)
