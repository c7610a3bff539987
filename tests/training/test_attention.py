"""Attention by groups: transformers' eager attention to the rounding of sums, and only there."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from offaxis.recipe import ModelConfig, Precision
from offaxis.tasks.chain import chain13
from offaxis.training.attention import use_grouped_attention
from offaxis.training.models import new_model, open_model, save_model, task_tokenizer
from offaxis.training.rollouts import complete
from offaxis.training.rows import attention_bias

GROUPED = "offaxis_grouped"
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def made(heads: int, groups: int, attention: str = "eager", **shape: int) -> PreTrainedModel:
    config = ModelConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=16,
        **shape,
    )
    precision = Precision(autocast="none", attention=attention)  # type: ignore[arg-type]
    return new_model(config, task_tokenizer(chain13), precision)


def outcome(model: PreTrainedModel, bias: Tensor | None) -> list[Tensor]:
    """Logits and all gradients."""
    model.zero_grad()
    ids = torch.randint(32, (3, 11), generator=torch.Generator().manual_seed(1))
    logits = model(input_ids=ids, attention_mask=bias, use_cache=False).logits
    logits.square().mean().backward()
    return [logits.detach(), *(w.grad for w in model.parameters() if w.grad is not None)]


@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (3, 3)])
@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("experts", [{}, EXPERTS])
def test_values_and_gradients_are_those_of_transformers(
    heads: int, groups: int, is_packed: bool, experts: dict[str, int]
) -> None:
    model = made(heads, groups, **experts)
    assert model.config._attn_implementation == GROUPED
    model = model if experts else model.double()  # experts' products are not taken in it
    bias = None
    if is_packed:
        ids = torch.tensor([[0] * 4 + [1] * 7, [0] * 11, [0, 0] + [1] * 5 + [2] * 4])
        bias = attention_bias(ids).to(model.dtype)
    found = outcome(model, bias)
    model.set_attn_implementation("eager")
    for ours, theirs in zip(found, outcome(model, bias), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # weights are in float32


def test_completions_are_those_of_transformers() -> None:
    model, tokenizer = made(4, 2), task_tokenizer(chain13)
    prompts = [chain13.problem(seed=0, index=index).prompt[: 9 + index] for index in range(8)]

    def completed() -> list[str]:
        return complete(model, tokenizer, prompts, max_tokens=12, temperature=0.0).texts

    found = completed()
    model.set_attn_implementation("eager")
    assert found == completed()
    assert len(set(found)) > 1


def test_other_architectures_and_other_attention_are_left_alone() -> None:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    llama = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    use_grouped_attention(llama)
    assert llama.config._attn_implementation == "eager"
    assert made(4, 2, attention="sdpa").config._attn_implementation == "sdpa"


def test_a_saved_model_does_not_know_of_it(tmp_path: Path) -> None:
    tokenizer = task_tokenizer(chain13)
    save_model(made(4, 2), tokenizer, tmp_path / "model")
    assert GROUPED not in (tmp_path / "model/config.json").read_text("utf-8")
    assert open_model(tmp_path / "model", Precision())[0].config._attn_implementation == GROUPED
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert plain.config._attn_implementation != GROUPED
