"""PEFT's adapters: every variant against PEFT's own merge, in float64; and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from offaxis.checkpoints.base import HoldsUpdates
from offaxis.checkpoints.formats import open_checkpoint

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# PEFT 0.21 asks transformers 5.23 by a name that it is to lose; it says where it changes its mind.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",
    "ignore::UserWarning:peft",
)

Q, V = "self_attn.q_proj", "self_attn.v_proj"


def llama(**changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": 24,
            "hidden_size": 16,
            "intermediate_size": 28,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "tie_word_embeddings": False,
        }
        | changes
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=24, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config)


def saved(path: Path, model: torch.nn.Module, config: Any) -> tuple[Path, Path]:
    """The base and an adapter on it that has learnt something at random."""
    model.save_pretrained(path / "base")
    adapted = peft.get_peft_model(model, config)
    g = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=g)
            parameter.data += 0.3 * noise * (0.1 if "magnitude" in name else 1.0)
    adapted.save_pretrained(path / "adapter")
    return path / "base", path / "adapter"


def judged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT makes of both, in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    held = peft.PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double()
    return dict(held.merge_and_unload().state_dict())


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": (llama, {"target_modules": [Q.split(".")[1], "down_proj"]}),
    "rslora": (llama, {"target_modules": "all-linear", "use_rslora": True}),
    "dora": (llama, {"target_modules": ["q_proj", "up_proj"], "use_dora": True}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"q_proj": 6, r".*\.1\.self_attn\.v_proj": 2},
            "alpha_pattern": {"^model.layers.0.mlp.down_proj": 1, "v_proj": 32},
        },
    ),
    "patterns and rslora": (
        llama,
        {
            "target_modules": ["q_proj"],
            "rank_pattern": {"1.self_attn.q_proj": 9},
            "use_rslora": True,
        },
    ),
    "one layer": (llama, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "saved modules": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "all biases": (llama, {"target_modules": ["q_proj"], "bias": "all"}),
    "own biases": (llama, {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    "a bias of B": (llama, {"target_modules": ["q_proj"], "lora_bias": True}),
    "embeddings": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "embeddings with dora": (llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "conv1d with dora": (
        gpt2,
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "conv1d, not said": (gpt2, {"target_modules": ["c_attn", "c_proj"]}),
    "gaussian": (llama, {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    "orthogonal": (llama, {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
}


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    model, settings = CASES["lora"]
    return saved(tmp_path_factory.mktemp("lora"), model(), peft.LoraConfig(r=4, **settings))


@pytest.mark.parametrize("case", CASES)
def test_every_variant_is_what_peft_merges(case: str, tmp_path: Path) -> None:
    model, settings = CASES[case]
    config = peft.LoraConfig(r=4, lora_alpha=6, **settings)
    base, adapter = saved(tmp_path, model(), config)
    reader = open_checkpoint(adapter, base=base)
    assert isinstance(reader, HoldsUpdates)
    truth = judged(base, adapter)
    plain = load_file(base / "model.safetensors")
    changed = 0
    assert reader.tensors().keys() == plain.keys()
    for name, info in reader.tensors().items():
        W = reader.read(name)
        assert (tuple(W.shape), str(W.dtype)) == (info.shape, f"torch.{info.dtype}")
        torch.testing.assert_close(W.double(), truth[name].double(), rtol=1e-12, atol=1e-13)
        update = reader.update(name)
        is_same = torch.equal(W.double(), plain[name].double())
        assert (reader.holding(name) == "nothing") is is_same
        changed += not is_same
        if update is not None:
            D = truth[name].double() - plain[name].double()
            dense = (update.left @ update.right.T).reshape(D.shape)
            torch.testing.assert_close(dense, D, rtol=1e-10, atol=1e-13)
        else:
            assert settings.get("use_dora") or reader.holding(name) == "tensor" or W.ndim == 1
    assert changed >= 1
    if not settings.get("use_dora"):
        ranks = {u.left.shape[1] for n in reader.tensors() if (u := reader.update(n)) is not None}
        assert ranks - {0}


def copied(adapter: Path, to: Path, **settings: Any) -> Path:
    shutil.copytree(adapter, to)
    file = to / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return to
