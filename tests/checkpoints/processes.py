"""What each of two processes saves of a model that torch's `fully_shard` has split between them.

    python processes.py RANK FOLDER

reads the weights of `FOLDER/plain/checkpoint-N` and `FOLDER/odd`, and leaves beside them what verl,
torchtitan and Lightning would have left: `verl/`, `titan/` and `lightning/`, and `odd-verl/` and
`odd-dcp/`.
"""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

STEPS = (5, 10)
BUFFERS = ("model.rotary.inv_freq",)


def module_of(weights: dict[str, torch.Tensor]) -> nn.Module:
    """A tree of modules whose state dict is these weights."""
    root = nn.Module()
    for name, tensor in weights.items():
        *places, last = name.split(".")
        inner = root
        for place in places:
            if not hasattr(inner, place):
                inner.add_module(place, nn.Module())
            inner = getattr(inner, place)
        if name in BUFFERS:
            inner.register_buffer(last, tensor)
        else:
            inner.register_parameter(last, nn.Parameter(tensor))
    return root


def split(folder: Path) -> nn.Module:
    """The model of a folder, split as FSDP2 does: layer by layer and the rest."""
    model = module_of(load_file(folder / "model.safetensors"))
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
    for layer in model.model.layers.children():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def state_of_adam(model: nn.Module) -> dict:
    """What AdamW keeps, after a step that moves nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    return get_optimizer_state_dict(model, optimizer)


def save_verl(model: nn.Module, folder: Path, rank: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / f"model_world_size_2_rank_{rank}.pt")


def work(rank: int, out: Path) -> None:
    warnings.simplefilter("ignore")  # of torch, about itself
    dist.init_process_group("gloo", f"file://{out / 'meeting'}", rank=rank, world_size=2)
    for step in STEPS:
        model = split(out / "plain" / f"checkpoint-{step}")
        adam = state_of_adam(model)
        save_verl(model, out / "verl" / f"global_step_{step}" / "actor", rank)
        state = {**model.state_dict(), "optimizer": adam, "version": "1"}
        state["train_state"] = {"step": torch.tensor(step)}
        dcp.save(state, checkpoint_id=out / "titan" / "checkpoint" / f"step-{step}")
        state = {"state_dict": model.state_dict(), "optimizer_0": adam}
        folder = out / "lightning" / "checkpoints" / f"epoch=0-step={step}.ckpt"
        dcp.save(state, checkpoint_id=folder)
    odd = split(out / "odd")
    save_verl(odd, out / "odd-verl", rank)
    dcp.save({"app": {"model": odd.state_dict()}}, checkpoint_id=out / "odd-dcp")
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
