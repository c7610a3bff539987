"""PEFT's adapters: every variant against PEFT's own merge, in float64; and what is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.base import HoldsUpdates
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.errors import CheckpointError

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


def test_a_pickled_adapter_is_opened_where_that_is_allowed(tmp_path: Path) -> None:
    model = llama()
    config = peft.LoraConfig(r=4, target_modules=["q_proj"])
    base, adapter = saved(tmp_path, model, config)
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(tensors, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        open_checkpoint(adapter, base=base).tensors()
    reader = open_checkpoint(adapter, Access(pickle=True), base)
    truth = judged(base, adapter)
    for name in reader.tensors():
        torch.testing.assert_close(reader.read(name).double(), truth[name].double())


class Experts(torch.nn.Module):
    """Stacks of experts as bare parameters, one of them with inputs first."""

    def __init__(self, *, is_transposed: bool) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        shapes = {"gate_up_proj": (3, 10, 6), "down_proj": (3, 6, 5)}
        for name, (count, rows, cols) in shapes.items():
            shape = (count, cols, rows) if is_transposed else (count, rows, cols)
            self.register_parameter(name, torch.nn.Parameter(torch.randn(shape, generator=g)))
        self.is_transposed = is_transposed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")  # it does
@pytest.mark.parametrize("is_transposed", [False, True])
def test_stacked_experts_are_adapted_one_by_one(tmp_path: Path, is_transposed: bool) -> None:
    model = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict()})
    model["mlp"]["experts"] = Experts(is_transposed=is_transposed)
    plain = {name: W.detach().clone() for name, W in model.state_dict().items()}
    (tmp_path / "base").mkdir()
    save_file(plain, tmp_path / "base" / "model.safetensors")
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=[],
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
        rank_pattern={"experts.down_proj": 1},
    )
    adapted = peft.get_peft_model(model, config)
    g = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=g)
    adapted.save_pretrained(tmp_path / "adapter")
    truth = adapted.double().merge_and_unload().state_dict()
    reader = open_checkpoint(tmp_path / "adapter", base=tmp_path / "base")
    assert isinstance(reader, HoldsUpdates)
    for name, W in plain.items():
        torch.testing.assert_close(reader.read(name), truth[name], rtol=1e-12, atol=1e-12)
        for entry, old in enumerate(W):
            update = reader.update(name, entry)
            assert update is not None
            assert update.left.shape[1] == (1 if "down" in name else 2)
            D = truth[name][entry] - old.double()
            torch.testing.assert_close(update.left @ update.right.T, D, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(reader.read(name, entry), truth[name][entry])


def test_a_base_without_the_prefix_of_its_module_is_known(
    lora: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = lora
    bare = {
        name.removeprefix("model."): W for name, W in load_file(base / "model.safetensors").items()
    }
    save_file(bare, tmp_path / "model.safetensors")
    plain, renamed = (open_checkpoint(adapter, base=path) for path in (base, tmp_path))
    assert isinstance(renamed, HoldsUpdates)
    assert {n for n in bare if renamed.holding(n) == "update"} == {
        n.removeprefix("model.") for n in plain.tensors() if plain.holding(n) == "update"
    }
    del bare[f"layers.1.{Q}.weight"]
    save_file(bare, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="such a tensor in the base"):
        open_checkpoint(adapter, base=tmp_path).tensors()


def copied(adapter: Path, to: Path, **settings: Any) -> Path:
    shutil.copytree(adapter, to)
    file = to / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return to


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "LOHA"}, "peft.convert_to_lora"),
    "no method": ({"peft_type": None}, "peft.convert_to_lora"),
    "a changed base": (
        {"init_lora_weights": "pissa_niter_4"},
        "path_initial_model_for_weight_conversion",
    ),
    "a start of its own": ({"init_lora_weights": "mine"}, "changed the base"),
    "replicated layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "a later variant": ({"use_something": True}, "use_something"),
    "tokens": ({"trainable_token_indices": [1]}, "merge_and_unload"),
    "a rank in words": ({"r": "4"}, "r: Input"),
    "no rank": ({"r": 0}, "greater than 0"),
    "an infinite scale": ({"lora_alpha": math.inf}, "finite"),
    "another rank": ({"r": 3}, "rank 3"),
    "another rank by pattern": ({"rank_pattern": {"q_proj": 2}}, "rank 2"),
    "a pattern without end": ({"rank_pattern": {"(a*)*b": 2}}, "quantifiers"),
    "many wildcards": ({"alpha_pattern": {".*.*.*.*q": 2}}, "quantifiers"),
    "no pattern": ({"alpha_pattern": {"(": 2}}, "pattern"),
    "magnitudes that are missing": ({"use_dora": True}, "A, B, magnitude"),
    "a list of settings": ({"rank_pattern": [1]}, "rank_pattern"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_with_the_way_out(
    case: str, lora: tuple[Path, Path], tmp_path: Path
) -> None:
    settings, said = REFUSED[case]
    adapter = copied(lora[1], tmp_path / "adapter", **settings)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(adapter, base=lora[0]).tensors()


def test_a_square_matrix_follows_what_the_others_show(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    base, adapter = saved(tmp_path, gpt2(), config)
    wrong = copied(adapter, tmp_path / "wrong", fan_in_fan_out=False)
    with pytest.raises(CheckpointError, match=r"c_proj.*(\n.*)*a square matrix shows nothing"):
        open_checkpoint(wrong, base=base).tensors()


@pytest.mark.parametrize(
    ("text", "found"), [("{", "Expecting"), ("[]", "list"), ("[" * 100_000, "nested too deeply")]
)
def test_damaged_settings_are_named(
    text: str, found: str, lora: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = copied(lora[1], tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=found):
        open_checkpoint(adapter, base=lora[0]).tensors()


def test_another_base_is_refused(lora: tuple[Path, Path], tmp_path: Path) -> None:
    llama(intermediate_size=30).save_pretrained(tmp_path / "wider")
    gpt2().save_pretrained(tmp_path / "other")
    for name, said in (("wider", r"shape \[16, 28\]"), ("other", "such a tensor in the base")):
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(lora[1], base=tmp_path / name).tensors()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_links_out_of_the_folder_are_refused(
    name: str, lora: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = copied(lora[1], tmp_path / "adapter")
    (adapter / name).rename(tmp_path / "secret")
    (adapter / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="own folder"):
        open_checkpoint(adapter, base=lora[0]).tensors()


def test_where_the_base_was_is_never_followed(lora: tuple[Path, Path], tmp_path: Path) -> None:
    for place in ("../base", str(lora[0]), "/etc/passwd", "https://example.com/model"):
        adapter = copied(
            lora[1], tmp_path / f"{len(list(tmp_path.iterdir()))}", base_model_name_or_path=place
        )
        with pytest.raises(CheckpointError, match="an adapter alone"):
            open_checkpoint(adapter).tensors()
        assert open_checkpoint(adapter, base=lora[0]).tensors()


def test_an_adapter_is_no_base_and_no_second_model(lora: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="an adapter alone"):
        open_checkpoint(lora[1], base=lora[1]).tensors()
    both = copied(lora[1], tmp_path / "both")
    shutil.copy(lora[0] / "model.safetensors", both)
    with pytest.raises(CheckpointError, match="both in one folder"):
        open_checkpoint(both, base=lora[0])


def test_no_tensor_of_an_adapter_is_passed_over(lora: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = load_file(lora[1] / "adapter_model.safetensors")
    for name, said in (
        ("base_model.model.model.layers.9.new.weight", "modules_to_save"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_E", "modules_to_save"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "base_model.model."),
        ("base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight", "A, B"),
    ):
        adapter = copied(lora[1], tmp_path / f"{len(list(tmp_path.iterdir()))}")
        save_file({**tensors, name: torch.ones(4, 16)}, adapter / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(adapter, base=lora[0]).tensors()


def test_factors_in_bytes_are_refused(lora: tuple[Path, Path], tmp_path: Path) -> None:
    adapter = copied(lora[1], tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    packed = {name: W.to(torch.int8) for name, W in tensors.items()}
    save_file(packed, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="dtypes out of"):
        open_checkpoint(adapter, base=lora[0]).tensors()


def test_files_and_digest_hold_settings_and_weights(
    lora: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = open_checkpoint(lora[1])
    assert {file.name for file in plain.files()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    same = open_checkpoint(Path(shutil.copytree(lora[1], tmp_path / "same")))
    other = open_checkpoint(copied(lora[1], tmp_path / "other", lora_alpha=7))
    assert plain.digest() == same.digest() != other.digest()
