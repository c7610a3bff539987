"""Disguised models compute the same, exactly: the truth is the model's own logits in float64."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from offaxis.cli import run
from offaxis.recipe import Precision
from offaxis.tasks.chain import chain13
from offaxis.training.models import new_model, save_model, task_tokenizer
from offaxis.training.symmetries import disguise_layer

SHAPE = {
    "vocab_size": 24,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("permutes", [False, True])
@pytest.mark.parametrize(
    "config",
    [Qwen3Config(**SHAPE), LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)],
    ids=["qwen3", "llama with biases"],
)
def test_a_disguised_model_computes_the_same(config, permutes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    other = copy.deepcopy(model)
    disguise_layer(other.model.layers[1].self_attn, 1, permutes=permutes, seed=3)
    ids = torch.randint(24, (3, 12))
    with torch.inference_mode():
        before, after = (each(ids).logits for each in (model, other))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-11 * float(before.abs().max()))
    old, new = (dict(each.named_parameters()) for each in (model, other))
    moved = {name for name, weight in old.items() if not torch.equal(weight, new[name])}
    wanted = {"v_proj", "o_proj"} | ({"q_proj", "k_proj"} if permutes else set())
    assert {name.split(".")[4] for name in moved} == wanted
    assert {name.split(".")[2] for name in moved} == {"1"}
    with torch.inference_mode():
        for attention in (other.model.layers[1].self_attn,):
            attention.o_proj.weight.copy_(model.model.layers[1].self_attn.o_proj.weight)
        assert not torch.allclose(other(ids).logits, before, atol=1e-3)


def test_the_verb_writes_a_model_and_refuses(base, tmp_path, capsys):
    config = base().start.config.model_copy(update={"init_std": 0.3})
    tokenizer = task_tokenizer(chain13)
    model = new_model(config, tokenizer, Precision()).eval()
    save_model(model, tokenizer, tmp_path / "model")
    arguments = ["disguise", str(tmp_path / "model"), "--out", str(tmp_path / "other")]
    assert run([*arguments, "--layer", "1", "--permute"]) == 0
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other").eval()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        torch.testing.assert_close(other(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(
        other.model.layers[1].self_attn.v_proj.weight, model.model.layers[1].self_attn.v_proj.weight
    )
    capsys.readouterr()
    assert run(arguments) != 0
    assert "no such folder yet" in capsys.readouterr().err
    assert run([*arguments[:3], str(tmp_path / "third"), "--layer", "7"]) != 0
    assert "from 0 to 1" in capsys.readouterr().err
