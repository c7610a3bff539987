"""Names without wrappers and prefixes: idempotent, and no two tensors become one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.checkpoints.names.logical import key_of, split_name
from offaxis.checkpoints.names.prefixes import agreements
from offaxis.checkpoints.names.wrappers import unwrapped

PARTS = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "base_model",
    "model",
    "language_model",
    "transformer",
    "layers",
    "0",
    "q_proj",
    "weight",
)
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=7).map(".".join)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)])


def test_what_wrappers_write_is_taken_off() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain = list(Net().state_dict())
    compiled = torch.compile(Net(), backend="eager")
    assert [unwrapped(name) for name in compiled.state_dict()] == plain
    inside = Net()
    inside.layers[0] = torch.compile(checkpoint_wrapper(inside.layers[0]), backend="eager")
    parallel = torch.nn.DataParallel(inside)
    names = [name for name, _ in torch.nn.Module.named_parameters(parallel)]
    assert all(name.startswith("module.") for name in names)
    assert sorted(map(unwrapped, names)) == sorted(plain)


@given(NAMES)
def test_taking_off_twice_changes_nothing(name: str) -> None:
    once = unwrapped(name)
    assert unwrapped(once) == once
    assert once


@given(st.sets(NAMES, max_size=12), st.sets(NAMES, max_size=12))
def test_prefixes_never_make_two_tensors_one(old: set[str], new: set[str]) -> None:
    ways = agreements(sorted(old), sorted(new))
    for mine, theirs in ways:
        for side, names in ((mine, old), (theirs, new)):
            assert set(side) == names
            assert len(set(side.values())) == len(names)
        assert len(old & new) <= len(set(mine.values()) & set(theirs.values()))
    if len(ways) == 1 and old == new:
        assert all(name == shared for name, shared in ways[0][0].items())


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("model.layers.0.w", "model.model.layers.0.w"),
        ("layers.0.w", "model.layers.0.w"),
        ("model.layers.0.w", "app.model.model.layers.0.w"),
        ("model.layers.0.w", "model.language_model.layers.0.w"),
        ("model.layers.0.w", "language_model.model.layers.0.w"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.language_model.layers.0.w", "language_model.model.layers.0.w"),
        ("h.0.w", "transformer.h.0.w"),
        ("model.layers.0.w", "state_dict.model.layers.0.w"),
    ],
)
def test_a_prefix_of_one_side_is_found(mine: str, theirs: str) -> None:
    for old, new in ((mine, theirs), (theirs, mine)):
        ((a, b),) = agreements([old], [new])
        assert a[old] == b[new]


def test_two_prefixes_that_fit_alike_are_both_returned() -> None:
    ways = agreements(["w"], ["model.w", "transformer.w"])
    assert len(ways) == 2


def test_nothing_is_taken_off_for_nothing() -> None:
    names = ["model.a", "model.b"]
    ((a, b),) = agreements(names, ["model.a", "other"])
    assert a == {name: name for name in names}
    assert b == {"model.a": "model.a", "other": "other"}


def test_the_names_of_parts_are_those_of_layers_stored_in_parts() -> None:
    assert split_name("l.0.qkv_proj.bias", "k") == "l.0.k_proj.bias"
    assert split_name("gate_up_proj.weight", "up") == "up_proj.weight"
    assert split_name("a.weight.weight", "") == "a.weight.weight"


@given(NAMES)
def test_draws_of_a_plain_tensor_have_its_name(name: str) -> None:
    assert key_of(name, "") == unwrapped(name)


def test_draws_are_the_same_for_fused_stacked_and_single_experts() -> None:
    single = "model.layers.1.mlp.experts.3.up_proj.weight"
    assert key_of("model.layers.1.mlp.experts.gate_up_proj", "expert.3.up") == single
    assert key_of("_orig_mod.model.layers.1.block_sparse_moe.experts.3.w3.weight", "") == single
