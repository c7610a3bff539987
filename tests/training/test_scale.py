"""Steps split in time and among processes: the weights of one process, to rounding.

Two processes of `gloo` on one machine stand for many. `Trainer`'s own switch for FSDP is ignored on
a CPU, so torch's `fully_shard` is applied here by hand to the same model, loss, optimizer and
rollouts; through the Trainer it needs a machine with a GPU.
"""

import multiprocessing
import os
import socket
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from offaxis.training import run_folder, train

KINDS = ("sft", "opd", "grpo")
FULL = {"precision": {"autocast": "none"}}


def in_processes(count: int, function, *args) -> None:
    """Run a function in processes that can meet, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_as_rank, args=(rank, count, port, function, args))
        for rank in range(count)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        for process in processes:
            process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * count


def _as_rank(rank, count, port, function, args) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    function(*args)
    if dist.is_initialized():
        dist.destroy_process_group()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, w in expected.items():
        torch.testing.assert_close(found[name], w, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="module", params=KINDS)
def alone(request, arm, tmp_path_factory):
    """A run of one process."""
    recipe, out = arm(request.param, **FULL), tmp_path_factory.mktemp("alone")
    return recipe, out, train(recipe, out)


def test_two_processes_train_the_weights_of_one(alone, tmp_path):
    recipe, out, run = alone
    (tmp_path / "models").symlink_to(out / "models")
    in_processes(2, train, recipe, tmp_path)
    found = run_folder(recipe, tmp_path)
    assert_same(weights(found.checkpoint(3)), weights(run.checkpoint(3)))
    for mine, theirs in zip(found.log(), run.log(), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() & {"loss", "tokens", "reward", "response_length", "entropy_nats"}:
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), key


def test_layers_computed_twice_give_the_same_weights(alone, arm, tmp_path):
    recipe, out, run = alone
    again = arm(recipe.arm, precision={"autocast": "none", "gradient_checkpointing": True})
    (tmp_path / "models").symlink_to(out / "models")
    assert_same(weights(train(again, tmp_path).checkpoint(3)), weights(run.checkpoint(3)))
