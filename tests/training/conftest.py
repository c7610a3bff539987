"""A laboratory small enough to train in a test: two layers, a few steps, nothing to be learned."""

import copy
import gc

import pytest

from offaxis.recipe import Recipe, recipe_from

BASE = {
    "arm": "base",
    "start": {
        "config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
        }
    },
    "objective": {"kind": "sft"},
    "data": {"task": "chain13", "mixture": {"facts": 4, "copy": 2, "answers": 2}},
    "optimizer": {"lr": 1e-2, "warmup_steps": 0},
    "steps": {"max": 3},
    "checkpoints": {"count": 4},
    "evaluation": {"problems": 8, "samples": 4},
}


@pytest.fixture(scope="session", autouse=True)
def _nothing_to_collect():
    """Accelerate collects garbage after every run: what imports have left shall not be searched."""
    gc.collect()
    gc.freeze()


def merged(content: dict, changes: dict) -> dict:
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(content.get(key), dict)
        content[key] = merged(content[key], value) if both else value
    return content


@pytest.fixture(scope="session")
def base():
    """Builds the base's recipe with changes."""

    def build(**changes) -> Recipe:
        return recipe_from(merged(copy.deepcopy(BASE), changes), "test")

    return build


@pytest.fixture(scope="session")
def arm(base):
    """Builds the recipe of an arm that starts from the base: sft, opd or grpo."""

    def build(kind: str, **changes) -> Recipe:
        content = copy.deepcopy(BASE) | {"arm": kind, "start": {"recipe": base().resolved()}}
        content["objective"] = {"kind": kind}
        if kind != "sft":
            content["data"] = {"task": "chain13", "prompts": 2}
            content["rollouts"] = {"per_prompt": 2, "max_tokens": 5}
        if kind == "grpo":
            # An untrained model never solves a problem; a coin gives it something to reinforce.
            content["rewards"] = {"kind": "random"}
        if kind == "opd":
            content["teacher"] = {"recipe": base(arm="teacher", seed=9).resolved()}
        return recipe_from(merged(content, changes), "test")

    return build
