"""Fused layers cut up as the real models read them: judged by what their attention receives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    Phi3Config,
    PretrainedConfig,
)

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.names.model import Model, model_at
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.checkpoints.views import Skipped, View, views
from offaxis.errors import CheckpointError

SMALL: dict[str, Any] = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
STACKED = Phi3Config(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=1,
    num_attention_heads=6,
    num_key_value_heads=2,
    **SMALL,
)
SIZES = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 6}
BY_HEAD = GPTNeoXConfig(intermediate_size=40, **SIZES, **SMALL)
CONV1D = GPT2Config(n_embd=24, n_layer=1, n_head=6, **SMALL)


class Held:
    """A saved model and the views of its tensors."""

    def __init__(self, config: PretrainedConfig, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_config(config).eval()
        for weight in self.model.parameters():
            torch.nn.init.normal_(weight)
        self.model.save_pretrained(folder)
        self.reader = SafetensorsFolder(folder)
        self.config = model_at(folder)

    def parts(self, leaf: str) -> dict[str, torch.Tensor]:
        """The matrices and vectors of the first tensor whose name ends so, by their labels."""
        info = next(i for n, i in self.reader.tensors().items() if n.endswith(leaf))
        found = views(info, self.config)
        assert isinstance(found, list)
        held = {view.view: view.piece.read(self.reader) for view in found}
        for view in found:
            assert view.numel == held[view.view].numel()
            if view.kind == "matrix":
                assert held[view.view].shape == view.shape
                assert held[view.view].is_contiguous()
        return held

    def layer(self, leaf: str) -> torch.nn.Module:
        return next(m for n, m in self.model.named_modules() if n.endswith(leaf))


@pytest.mark.parametrize(
    ("config", "leaf"),
    [(STACKED, "qkv_proj"), (BY_HEAD, "query_key_value"), (CONV1D, "c_attn")],
    ids=["phi3", "gpt_neox", "gpt2"],
)
def test_attention_receives_what_the_views_give(
    config: PretrainedConfig, leaf: str, tmp_path: Path
) -> None:
    held, seen = Held(config, tmp_path), {}

    def attention(module, query, key, value, *args, **kwargs):
        seen.update(q=query, k=key, v=value)
        each = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        return each.transpose(1, 2), None

    AttentionInterface.register("seen", attention)
    held.model.set_attn_implementation("seen")
    held.layer(leaf).register_forward_hook(lambda module, args, out: seen.update(x=args[0]))
    with torch.no_grad():
        held.model(torch.tensor([[3]]))  # one token: no rotation at the first place
    weights, biases = held.parts(f"{leaf}.weight"), {}
    if held.layer(leaf).bias is not None:
        biases = held.parts(f"{leaf}.bias")
    for name in ("q", "k", "v"):
        given = weights[name] @ seen["x"].flatten() + biases.get(name, 0)
        torch.testing.assert_close(given, seen[name].flatten())


@pytest.mark.parametrize("kind", ["groups", "one", "heads", "bloom"])
def test_heads_are_split_as_falcon_and_bloom_split_them(kind: str, tmp_path: Path) -> None:
    groups = {"new_decoder_architecture": kind == "groups", "num_kv_heads": 2}
    config = (
        BloomConfig(hidden_size=24, n_layer=1, n_head=6, **SMALL)
        if kind == "bloom"
        else FalconConfig(multi_query=kind == "one", **groups, **SIZES, **SMALL)
    )
    held = Held(config, tmp_path)
    attention = held.layer("self_attention")
    split = attention._reshape if kind == "bloom" else attention._split_heads
    weights = held.parts("query_key_value.weight")
    x = torch.randn(24)
    y = held.layer("query_key_value").weight @ x
    expected = dict(zip("qkv", split(y[None, None]), strict=True))
    size = {"groups": 2, "one": 1}.get(kind, 6) * 4
    for name in "qkv":
        given = weights[name] @ x
        flat = expected[name].flatten()
        if kind == "groups" and name != "q":  # Falcon repeats keys and values for its queries
            flat = expected[name].reshape(2, 3, 4)[:, 0].flatten()
        assert given.numel() == (24 if name == "q" else size)
        torch.testing.assert_close(given, flat)


def test_gate_and_up_are_the_halves_the_activation_takes(tmp_path: Path) -> None:
    held = Held(STACKED, tmp_path)
    mlp, x = held.layer("mlp"), torch.randn(24)
    parts = held.parts("gate_up_proj.weight")
    given = torch.nn.functional.silu(parts["gate"] @ x) * (parts["up"] @ x)
    torch.testing.assert_close(mlp.down_proj(given), mlp(x))


def test_outputs_are_rows_in_conv1d(tmp_path: Path) -> None:
    held, x = Held(CONV1D, tmp_path), torch.randn(24)
    for leaf in ("c_fc", "mlp.c_proj"):
        (weight,), (bias,) = (held.parts(f"{leaf}.{n}").values() for n in ("weight", "bias"))
        y = x if leaf == "c_fc" else torch.randn(96)
        torch.testing.assert_close(weight @ y + bias, held.layer(leaf)(y))


def test_experts_stored_by_inputs_with_gate_and_up_in_turn(tmp_path: Path) -> None:
    config = GptOssConfig(
        intermediate_size=40,
        num_key_value_heads=2,
        head_dim=4,
        num_local_experts=2,
        num_experts_per_tok=1,
        **SIZES,
        **SMALL,
    )
    held, x = Held(config, tmp_path), 0.01 * torch.randn(24)
    experts = held.layer("experts")
    up, down = held.parts("experts.gate_up_proj"), held.parts("experts.down_proj")
    up_bias = held.parts("experts.gate_up_proj_bias")
    down_bias = held.parts("experts.down_proj_bias")
    assert list(up_bias) == list(up)
    assert list(down_bias) == list(down)
    gate = (up["expert.1.gate"] @ x + up_bias["expert.1.gate"]).clamp(max=experts.limit)
    value = (up["expert.1.up"] @ x + up_bias["expert.1.up"]).clamp(-experts.limit, experts.limit)
    inner = (value + 1) * gate * torch.sigmoid(gate * experts.alpha)
    routed = experts(x[None], torch.tensor([[1]]), torch.tensor([[1.0]]))
    torch.testing.assert_close(down["expert.1"] @ inner + down_bias["expert.1"], routed.flatten())


def plain(name: str, shape: tuple[int, ...], model: Model | None) -> list[View]:
    found = views(TensorInfo(name, shape, "float32"), model)
    assert isinstance(found, list)
    return found


def test_what_no_config_tells_is_taken_as_stored() -> None:
    for name in ("qkv_proj.weight", "h.0.c_attn.weight", "query_key_value.weight"):
        (view,) = plain(name, (72, 24), None)
        assert (view.view, view.piece.is_whole) == ("", True)
    entries = plain("experts.gate_up_proj", (2, 48, 24), None)
    assert [view.view for view in entries] == ["expert.0", "expert.1"]
    sizes = Model("phi3", "phi3", 24, 6, 2, 4, None)
    assert len(plain("qkv_proj.weight", (40, 24), sizes)) == 3
    assert len(plain("qkv_proj.weight", (41, 24), sizes)) == 1
    assert (
        len(plain("qkv_proj.weight", (40, 24), Model("codegen", "codegen", 24, 6, 2, 4, None))) == 1
    )


def test_an_expert_as_wide_as_long_is_turned_only_where_the_model_has_one_way() -> None:
    for kind, turned in (("qwen3_moe", False), ("llama4_text", True)):
        held = plain("experts.gate_up_proj", (2, 24, 24), Model(kind, kind, 24, 6, 2, 4, None))
        assert [view.view for view in held[:2]] == ["expert.0.gate", "expert.0.up"]
        assert {view.piece.transposed for view in held} == {turned}
    either = Model("qwen3_vl_moe_text", "qwen3_vl_moe", 24, 6, 2, 4, None)
    assert [v.view for v in plain("experts.gate_up_proj", (1, 24, 24), either)] == ["expert.0"]
    assert plain("experts.gate_up_proj", (1, 24, 40), either)[0].piece.transposed


def test_biases_of_stacked_experts_are_vectors() -> None:
    sizes = Model("gpt_oss", "gpt_oss", 24, 6, 2, 4, None)
    for model, labels in (
        (sizes, ["expert.0.gate", "expert.0.up", "expert.1.gate", "expert.1.up"]),
        (None, ["expert.0", "expert.1"]),
    ):
        held = plain("model.layers.0.mlp.experts.gate_up_proj_bias", (2, 80), model)
        assert [view.view for view in held] == labels
        assert {view.kind for view in held} == {"elements"}
        assert sum(view.numel for view in held) == 160
    weights = plain("model.layers.0.mlp.experts.gate_up_proj", (2, 24, 80), sizes)
    biases = plain("model.layers.0.mlp.experts.gate_up_proj_bias", (2, 80), sizes)
    assert [v.key.replace(".bias", ".weight") for v in biases] == [v.key for v in weights]
    assert not {view.key for view in biases} & {view.key for view in weights}
    (down,) = plain("experts.down_proj_bias", (1, 24), sizes)
    assert (down.key, down.role, down.shape) == ("experts.0.down_proj.bias", "down_proj", (24, 1))


def test_masks_of_attention_are_no_weights() -> None:
    mask = views(TensorInfo("h.0.attn.bias", (1, 1, 8, 8), "float32"))
    assert isinstance(mask, Skipped)
    assert plain("h.0.attn.bias", (8,), None)[0].kind == "elements"


@pytest.mark.parametrize("text", ["{", "[]", "3", "{" * 100_000])
def test_a_config_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        model_at(tmp_path)


def test_a_config_with_other_types_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "phi3", "hidden_size": "a", "num_attention_heads": [3]}')
    assert model_at(tmp_path) == Model("phi3", "phi3", None, None, None, None, None)
    file.write_text('{"model_type": ["phi3"]}')
    assert model_at(tmp_path) is None
    file.write_text('{"model_type": "vlm", "text_config": {"model_type": "phi3", "n_embd": 8}}')
    found = model_at(tmp_path)
    assert found is not None
    assert (found.kind, found.whole, found.hidden) == ("phi3", "vlm", 8)
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert SafetensorsFolder(tmp_path).tensors()
