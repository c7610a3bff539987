"""What one of two processes does in the tests of scale, started with torchrun's environment.

    python two_processes.py RECIPES OUT

trains every recipe of a folder as `offaxis train` does under torchrun, then those of the three
objectives again by hand on a model that torch's `fully_shard` has split.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard

from offaxis.catalog import find
from offaxis.objectives.base import Objective
from offaxis.objectives.loss import token_loss
from offaxis.recipe import Optimizer, Recipe, load_recipe
from offaxis.tasks.base import GeneratedTask
from offaxis.training import train
from offaxis.training.confinement import Confinement
from offaxis.training.constraints.bases import random_bases
from offaxis.training.constraints.subspace import SubspaceConstraint
from offaxis.training.folders import trained_checkpoint
from offaxis.training.heads import fixed_head, head_of
from offaxis.training.models import start_model
from offaxis.training.optimizers import new_optimizer
from offaxis.training.ranks import Ranks, through, whole_state
from offaxis.training.sources import Documents, Rollouts
from offaxis.training.updates import Update, layer_matrices

KINDS = ("sft", "opd", "grpo")


def plain(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW where nothing constrains the weights."""
    return new_optimizer(Optimizer(lr=1e-2), model, {}, [])


def in_core(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the cores of random subspaces of the layer matrices, with all else frozen."""
    update = Update(layer_matrices(model))
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in update.weights)
    bases = random_bases(update.weights, 4, seed=0)
    constraint = SubspaceConstraint(update, bases, "core", is_two_sided=True)
    confinement = Confinement(model, update, [constraint], constraint.held())
    optimizer = new_optimizer(Optimizer(lr=1e-2), model, confinement.held, [])
    confinement.attach(optimizer)
    return optimizer


OPTIMIZERS = {"adamw": plain, "core": in_core}


def sharded(model: nn.Module) -> nn.Module:
    """The model split among the processes, layer by layer."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def by_hand(recipe: Recipe, out: Path, optimizer: str, ranks: Ranks, wrap=lambda m: m) -> dict:
    """Three steps of a bare loop over the project's sources, loss and optimizers; the weights."""
    task = find("offaxis.tasks", GeneratedTask, recipe.data.task)
    objective = find("offaxis.objectives", Objective, recipe.objective.kind)
    sources = [recipe.start] + ([recipe.teacher] if recipe.teacher else [])
    (model, tokenizer), *others = [
        start_model(s, task, recipe.precision, trained_checkpoint(s, out)) for s in sources
    ]
    model, teacher = wrap(model), others[0][0] if others else None
    moving = OPTIMIZERS[optimizer](model)
    if objective.rollouts:
        source = Rollouts(task, tokenizer, recipe, ranks=ranks)
    else:
        source = Documents(task, tokenizer, recipe.data.mixture, recipe.seed)
    for step in (1, 2, 3):
        drawn = source.draw(model, step)
        rows = (
            drawn.rows
            if drawn.first_row is not None
            else drawn.rows.part(ranks.share(len(drawn.rows.input_ids_BS)))
        )
        num_tokens = round(ranks.total([float(rows.batch.mask_BT.sum())])[0])

        def loss(rows=rows, num_tokens=num_tokens):
            streams = objective(rows.batch, **recipe.objective.settings)
            return token_loss(
                head_of(model, rows),
                rows.batch,
                streams,
                num_tokens=num_tokens,
                teacher=None if teacher is None else fixed_head(teacher, rows),
            ).value

        (ranks.count * through(model, model, loss)).backward()
        moving.step()
        model.zero_grad()
    return whole_state(model) or {name: w.detach() for name, w in model.named_parameters()}


def main(recipes: Path, out: Path) -> None:
    """Train each recipe in turn, through the Trainer and by hand."""
    loaded = {path.stem: load_recipe(path) for path in sorted(recipes.glob("*.toml"))}
    for recipe in loaded.values():
        train(recipe, out)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    for name in KINDS:
        recipe = loaded[name]
        for optimizer in OPTIMIZERS:
            weights = by_hand(recipe, out, optimizer, ranks, sharded)
            if ranks.is_first:
                held = {name: w for name, w in weights.items() if name != "lm_head.weight"}  # tied
                save_file(held, out / f"{name}-{optimizer}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
