"""What each of two processes does in `test_sharded_constraints`; a module, for spawn to find."""

import sys
import warnings

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import Linear, Module, ModuleList
from torch.nn.functional import mse_loss

from offaxis.linalg.confinement import random_subspace
from offaxis.linalg.coordinates import random_entries
from offaxis.linalg.shards import whole
from offaxis.training.confinement import Confinement
from offaxis.training.constraints.masks import MaskConstraint
from offaxis.training.constraints.subspace import FORMS, SubspaceConstraint
from offaxis.training.updates import Update, layer_matrices

NAME = "layers.0.weight"


class Toy(Module):
    def __init__(self, dtype):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = ModuleList([Linear(12, 10, bias=False)]).to(dtype)
            self.x, self.y = torch.randn(32, 12).to(dtype), torch.randn(32, 10).to(dtype)


def trained(kind: str, *, is_sharded: bool) -> tuple[Tensor, dict[str, float]]:
    """Ten steps of AdamW under a constraint; the whole weights and the last measures."""
    is_narrow = kind == "stochastic"
    toy = Toy(torch.bfloat16 if is_narrow else torch.float32)
    if is_sharded:
        fully_shard(toy.layers[0], mesh=init_device_mesh("cpu", (2,)))
    generator = torch.Generator().manual_seed(1)
    update, constraints, held = Update(layer_matrices(toy)), [], {}
    if kind == "mask":
        constraints = [MaskConstraint(update, {NAME: random_entries(10, 12, 40, generator)})]
    elif kind in FORMS:
        bases = {NAME: random_subspace(10, 12, 3, generator)}
        norms = [0.02 * step for step in range(1, 11)]
        both = kind in ("core", "project")
        constraints = [SubspaceConstraint(update, bases, kind, is_two_sided=both, norms=norms)]
        held = constraints[0].held()
    confinement = Confinement(toy, update, constraints, held)
    optimizer = torch.optim.AdamW([held.get(NAME, toy.layers[0].weight)], lr=1e-2)
    confinement.attach(optimizer, rounding_seed=0 if is_narrow else None)
    for _ in range(10):
        toy.zero_grad()
        mse_loss(toy.layers[0](toy.x), toy.y).backward()
        optimizer.step()
    return whole(toy.layers[0].weight.detach()), confinement.measures()


def work(rank: int, meeting: str, out: str) -> None:
    """Train everything sharded over two processes, and let the first write it down."""
    warnings.simplefilter("ignore")  # of torch, about itself
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    kinds = [*sorted(FORMS), "mask", "stochastic"]
    found = {kind: trained(kind, is_sharded=True) for kind in kinds}
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), *sys.argv[2:])
