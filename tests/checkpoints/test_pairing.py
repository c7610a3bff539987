"""Checkpoints of the real transformers under other names, paired with plain ones bit for bit."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.models import Weights, anchor_weights, moved, save
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen3_5MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3VLMoeConfig,
)

from offaxis.checkpoints.coverage import require
from offaxis.checkpoints.names import experts
from offaxis.checkpoints.pairing import Pairing, pair
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.errors import CheckpointError, CoverageError

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OF_EXPERTS = {**SIZES, "num_key_value_heads": 2, "num_experts_per_tok": 2}
MODELS: dict[str, PretrainedConfig] = {
    "dense": LlamaConfig(num_key_value_heads=4, tie_word_embeddings=False, **SIZES),
    "gqa": Qwen3Config(num_key_value_heads=2, head_dim=4, tie_word_embeddings=False, **SIZES),
    "tied": Qwen3Config(num_key_value_heads=2, head_dim=4, tie_word_embeddings=True, **SIZES),
    "qwen3_moe": Qwen3MoeConfig(num_experts=3, moe_intermediate_size=12, head_dim=4, **OF_EXPERTS),
    "mixtral": MixtralConfig(num_local_experts=3, **OF_EXPERTS),
}
STACKED = ("qwen3_moe", "mixtral")


class Saved:
    """A model as the library saves it: one by one, and where it has experts as stacks too."""

    def __init__(self, config: PretrainedConfig, folder: Path) -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder / "plain")
        model.save_pretrained(folder / "stacked", save_original_format=False)
        model.save_pretrained(folder / "sharded", max_shard_size="4KB")
        self.folder = folder
        self.plain = SafetensorsFolder(folder / "plain")
        self.weights = load_file(folder / "plain" / "model.safetensors")

    def reader(self, name: str) -> SafetensorsFolder:
        return SafetensorsFolder(self.folder / name)

    def under(self, rename: Callable[[str], str]) -> SafetensorsFolder:
        """The same weights under other names."""
        found = {rename(name): W for name, W in self.weights.items()}
        path = save(self.folder / f"renamed-{len(list(self.folder.iterdir()))}", found)
        config = (self.folder / "plain" / "config.json").read_text()
        (path / "config.json").write_text(config)
        return SafetensorsFolder(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    return cache(lambda name: Saved(MODELS[name], tmp_path_factory.mktemp(name)))


def require_same(anchor: SafetensorsFolder, current: SafetensorsFolder, found: Pairing) -> None:
    """Every view is read alike from both sides, and all weights of both are in one of them."""
    for view, (piece,) in found.pieces.items():
        assert piece is not None
        ours, theirs = view.piece.read(anchor), piece.read(current)
        assert ours.shape == theirs.shape
        assert view.kind == "elements" or ours.shape == view.shape
        assert ours.numel() == view.numel
        assert torch.equal(ours, theirs)
    (coverage,) = found.coverages
    assert coverage.shares == (1.0, 1.0)
    assert not coverage.only_in_anchor
    assert not coverage.only_in_checkpoint


WRAPPERS: dict[str, Callable[[str], str]] = {
    "ddp": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "layers compiled": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "fsdp": lambda name: (
        "_fsdp_wrapped_module." + name.replace(".mlp.", "._fsdp_wrapped_module.mlp.")
    ),
    "checkpointed": lambda name: name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
    "peft": lambda name: f"base_model.model.{name}",
    "all": lambda name: f"module._orig_mod.{name}",
    "dcp": lambda name: f"model.{name}",
    "torchtitan": lambda name: f"app.model.{name}",
    "state dict": lambda name: f"state_dict.{name}",
    "without prefix": lambda name: name.removeprefix("model."),
    "language": lambda name: name.replace("model.", "model.language_model.", 1),
    "older language": lambda name: f"language_model.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_names(saved: Callable[[str], Saved], wrapper: str) -> None:
    model = saved("dense")
    current = model.under(WRAPPERS[wrapper])
    for anchor, other in ((model.plain, current), (current, model.plain)):
        found = pair(anchor, [other])
        require_same(anchor, other, found)
        assert {view.tensor for view in found.pieces} == set(anchor.tensors())
        assert found.coverages[0].renamed()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["plain", "sharded", "stacked", "compiled"])
def test_every_form_of_every_model(saved: Callable[[str], Saved], name: str, form: str) -> None:
    model = saved(name)
    current = model.under(WRAPPERS["compiled"]) if form == "compiled" else model.reader(form)
    for anchor, other in ((model.plain, current), (current, model.plain), (current, current)):
        require_same(anchor, other, pair(anchor, [other]))


@pytest.mark.parametrize("name", STACKED)
def test_stacks_and_single_experts_draw_alike(saved: Callable[[str], Saved], name: str) -> None:
    model = saved(name)
    single, stacked = (
        {view.key for view in pair(reader, [reader]).pieces}
        for reader in (model.plain, model.reader("stacked"))
    )
    assert single == stacked
    (view,) = (
        v
        for v in pair(model.reader("stacked"), [model.plain]).pieces
        if v.key.endswith("1.mlp.experts.2.up_proj.weight")
    )
    assert (view.view, view.role, view.layer) == ("expert.2.up", "up_proj", 1)


def test_stacks_without_the_library_or_a_config_say_what_would_help(
    saved: Callable[[str], Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved("qwen3_moe")
    bare = {}
    for form in ("plain", "stacked"):
        weights = load_file(model.folder / form / "model.safetensors")
        bare[form] = SafetensorsFolder(save(tmp_path / form, weights))
    (coverage,) = pair(bare["plain"], [bare["stacked"]]).coverages
    with pytest.raises(CoverageError, match=r"config\.json beside the weights"):
        require(coverage, 0.99, bare["plain"].path, bare["stacked"].path)
    monkeypatch.setattr(experts, "find_spec", lambda name: None)
    (coverage,) = pair(model.plain, [model.reader("stacked")]).coverages
    with pytest.raises(CoverageError, match=r"offaxis\[train\]"):
        require(coverage, 0.99, model.plain.path, model.reader("stacked").path)
    same = model.reader("stacked")
    require_same(same, same, pair(same, [same]))


SEEING: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 4,
    "patch_size": 4,
    "out_hidden_size": 16,
    "num_position_embeddings": 16,
}
EXPERTS: dict[str, Any] = {**OF_EXPERTS, "num_experts": 3, "head_dim": 4}
LINEAR = {f"linear_{name}_head_dim": 4 for name in ("key", "value")}
LINEAR |= {f"linear_num_{name}_heads": 2 for name in ("key", "value")}


def one_by_one(weights: Weights) -> Weights:
    """Experts as the modules take them: gate and up are the halves of a stack's outputs."""
    found: Weights = {}
    for name, W in weights.items():
        front, dot, leaf = name.rpartition("experts.")
        if leaf == "down_proj":
            found |= {f"{front}{dot}{i}.down_proj.weight": one for i, one in enumerate(W)}
        elif leaf == "gate_up_proj":
            for i, one in enumerate(W):
                halves = zip(("gate", "up"), one.chunk(2), strict=True)
                found |= {f"{front}{dot}{i}.{half}_proj.weight": part for half, part in halves}
        else:
            found[name] = W
    return found


def turned(weights: Weights) -> Weights:
    """Stacks as Qwen published them: inputs x outputs."""
    return {name: W.mT if ".experts." in name and W.ndim == 3 else W for name, W in weights.items()}


def written(config: PretrainedConfig, folder: Path) -> dict[str, SafetensorsFolder]:
    """A model that sees, with its experts stacked, turned, and one by one."""
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(
        folder / "stacked", save_original_format=False
    )
    weights = load_file(folder / "stacked" / "model.safetensors")
    said = (folder / "stacked" / "config.json").read_text()
    for name, form in (("turned", turned), ("single", one_by_one)):
        path = save(folder / name, {n: W.contiguous() for n, W in form(weights).items()})
        (path / "config.json").write_text(said)
    return {name: SafetensorsFolder(folder / name) for name in ("stacked", "turned", "single")}


def test_experts_of_qwen_vl_are_paired_whichever_way_they_are_stored(tmp_path: Path) -> None:
    config = Qwen3VLMoeConfig(
        text_config={**EXPERTS, "moe_intermediate_size": 12},
        vision_config={**SEEING, "deepstack_visual_indexes": [0]},
    )
    held = written(config, tmp_path)
    for anchor in held.values():
        for other in held.values():
            require_same(anchor, other, pair(anchor, [other]))


def test_a_model_is_asked_as_the_first_kind_that_can_be_made(tmp_path: Path) -> None:
    """Qwen3.5's config is registered for its language model too, which it cannot make."""
    text = {**EXPERTS, **LINEAR, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12}
    held = written(Qwen3_5MoeConfig(text_config=text, vision_config=SEEING), tmp_path)
    for anchor, other in (("single", "stacked"), ("stacked", "single")):
        require_same(held[anchor], held[other], pair(held[anchor], [held[other]]))


@pytest.mark.parametrize("width", [8, 16])
def test_square_stacks_that_lie_either_way_are_not_guessed(width: int, tmp_path: Path) -> None:
    """Gate and up together, or down, as wide as long."""
    config = Qwen3VLMoeConfig(
        text_config={**EXPERTS, "moe_intermediate_size": width},
        vision_config={**SEEING, "deepstack_visual_indexes": [0]},
    )
    held = written(config, tmp_path)
    for form in ("stacked", "turned"):
        found = pair(held["single"], [held[form]])
        square = "down_proj" if width == 16 else "gate_up_proj"
        (coverage,) = found.coverages
        assert {view.tensor.rpartition(".")[2] for view in coverage.only_in_checkpoint} == {square}
        for view, (piece,) in found.pieces.items():
            assert piece is not None
            assert torch.equal(view.piece.read(held["single"]), piece.read(held[form]))
        with pytest.raises(CoverageError, match="experts alike on both sides"):
            require(coverage, 0.99, held["single"].path, held[form].path)


def test_the_config_of_either_side_serves_both(
    saved: Callable[[str], Saved], tmp_path: Path
) -> None:
    model = saved("mixtral")
    stacked = load_file(model.folder / "stacked" / "model.safetensors")
    bare = SafetensorsFolder(save(tmp_path, stacked))
    for anchor, other in ((model.plain, bare), (bare, model.plain)):
        require_same(anchor, other, pair(anchor, [other]))


def test_fused_attention_against_its_parts(tmp_path: Path) -> None:
    config = Phi3Config(num_key_value_heads=2, **SIZES)
    model = Saved(config, tmp_path)
    split: Weights = {}
    for name, W in model.weights.items():
        if "qkv_proj" in name:
            for part, rows in zip("qkv", W.split([16, 8, 8]), strict=True):
                split[name.replace("qkv", part)] = rows.clone()
        elif "gate_up_proj" in name:
            for part, rows in zip(("gate", "up"), W.chunk(2), strict=True):
                split[name.replace("gate_up", part)] = rows.clone()
        else:
            split[name] = W
    parts = SafetensorsFolder(save(tmp_path / "parts", split))
    for anchor, other in ((model.plain, parts), (parts, model.plain), (model.plain, model.plain)):
        found = pair(anchor, [other])
        require_same(anchor, other, found)
        assert {view.key for view in found.pieces} == set(split)
    bare = SafetensorsFolder(save(tmp_path / "bare", model.weights))
    (coverage,) = pair(bare, [parts]).coverages
    with pytest.raises(CoverageError, match=r"config\.json beside the weights"):
        require(coverage, 0.99, bare.path, parts.path)
    assert "qkv_proj" in "".join(pair(bare, [bare]).coverages[0].notes)
    both = SafetensorsFolder(save(tmp_path / "both", {**model.weights, **split}))
    with pytest.raises(CheckpointError, match="one tensor for each name"):
        pair(model.plain, [both])


def test_a_head_that_is_the_embedding_is_measured_once(tmp_path: Path) -> None:
    weights = anchor_weights()
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    absent = SafetensorsFolder(save(tmp_path / "absent", weights))
    tied = SafetensorsFolder(save(tmp_path / "tied", {**weights, head: weights[embedding].clone()}))
    own = SafetensorsFolder(save(tmp_path / "own", {**weights, head: 2 * weights[embedding]}))
    for anchor, current in ((absent, tied), (tied, absent), (tied, tied)):
        found = pair(anchor, [current])
        assert head not in {view.tensor for view in found.pieces}
        assert found.coverages[0].tied == f"{head} is {embedding}"
        assert found.coverages[0].shares == (1.0, 1.0)
    found = pair(tied, [tied, own])
    assert [piece is None for piece in found.pieces[by_name(found, head)]] == [True, False]
    assert found.coverages[1].notes == ("the head is the embedding in the anchor alone",)
    (coverage,) = pair(own, [absent]).coverages
    assert [view.label for view in coverage.only_in_anchor] == [head]
    (tmp_path / "tied" / "config.json").write_text(
        json.dumps({"model_type": "llama", "tie_word_embeddings": False})
    )
    assert by_name(pair(tied, [tied]), head)  # said to be its own, and not read to be told


def by_name(found: Pairing, tensor: str):
    (view,) = (view for view in found.pieces if view.tensor == tensor)
    return view


def test_a_tied_model_says_so(saved: Callable[[str], Saved]) -> None:
    model = saved("tied")
    (coverage,) = pair(model.plain, [model.plain]).coverages
    assert coverage.tied == "the head is model.embed_tokens.weight"


def test_a_resized_vocabulary_is_compared_on_common_rows(tmp_path: Path) -> None:
    weights = anchor_weights()
    name = "model.embed_tokens.weight"
    anchor = SafetensorsFolder(save(tmp_path / "anchor", weights))
    more = moved({**weights, name: torch.cat([weights[name], torch.ones(8, 32)])}, 0.1)
    less = {**weights, name: weights[name][:20]}
    currents = [
        SafetensorsFolder(save(tmp_path / side, held)) for side, held in (("m", more), ("l", less))
    ]
    found = pair(anchor, currents[:1])
    assert by_name(found, name).label == name  # the anchor's rows are all there
    found = pair(anchor, currents)
    view = by_name(found, name)
    assert (view.label, view.shape) == (f"{name}[rows.20]", (20, 32))
    assert torch.equal(view.piece.read(anchor), weights[name][:20])
    for piece, current, held in zip(found.pieces[view], currents, (more, less), strict=True):
        assert piece is not None
        assert torch.equal(piece.read(current), held[name][:20])
    ((resized,),) = (coverage.resized for coverage in found.coverages[:1])
    assert (resized.anchor.rows, resized.current.rows) == (24, 32)
    assert found.coverages[0].shares == (1.0, 1.0)


def test_another_shape_is_listed_and_counts(tmp_path: Path) -> None:
    weights = anchor_weights()
    name = "model.layers.1.mlp.up_proj.weight"
    anchor = SafetensorsFolder(save(tmp_path / "anchor", weights))
    other = SafetensorsFolder(save(tmp_path / "other", {**weights, name: torch.ones(79, 32)}))
    found = pair(anchor, [other])
    assert name not in {view.tensor for view in found.pieces}
    (coverage,) = found.coverages
    assert coverage.skipped == [(name, "shape [80, 32] in the anchor, [79, 32] in the checkpoint")]
    total = sum(W.numel() for W in weights.values())
    assert coverage.shares[0] == pytest.approx(1 - 80 * 32 / total)
    with pytest.raises(CoverageError, match=f"of another shape: '{name}'"):
        require(coverage, 0.99, anchor.path, other.path)
    require(coverage, 0.5, anchor.path, other.path)


def test_equal_shapes_without_a_rule_are_never_paired(tmp_path: Path) -> None:
    weights = anchor_weights()
    name = "model.layers.1.mlp.up_proj.weight"
    anchor = SafetensorsFolder(save(tmp_path / "anchor", weights))
    renamed = {("model.layers.1.mlp.fc.weight" if n == name else n): W for n, W in weights.items()}
    found = pair(anchor, [SafetensorsFolder(save(tmp_path / "other", renamed))])
    (coverage,) = found.coverages
    assert [view.label for view in coverage.only_in_anchor] == [name]
    assert [v.label for v in coverage.only_in_checkpoint] == ["model.layers.1.mlp.fc.weight"]


def test_two_tensors_for_one_name_are_refused(tmp_path: Path) -> None:
    weights = anchor_weights()
    anchor = SafetensorsFolder(save(tmp_path / "anchor", weights))
    twice = weights | {f"module.{name}": W.clone() for name, W in weights.items()}
    other = SafetensorsFolder(save(tmp_path / "twice", twice))
    with pytest.raises(CheckpointError, match="one tensor for each name"):
        pair(anchor, [other])
    assert len(pair(other, [other]).pieces) == len(twice)  # the same names are no question


def test_two_prefixes_that_fit_alike_are_refused(tmp_path: Path) -> None:
    anchor = SafetensorsFolder(save(tmp_path / "anchor", {"w": torch.ones(2, 2)}))
    both = {"model.w": torch.ones(2, 2), "transformer.w": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match="one way in which their names agree"):
        pair(anchor, [SafetensorsFolder(save(tmp_path / "both", both))])


def test_a_stack_stored_the_other_way_round_is_turned(tmp_path: Path) -> None:
    stack = torch.randn(2, 3, 5)
    anchor = SafetensorsFolder(save(tmp_path / "a", {"experts.down_proj": stack}))
    turned = SafetensorsFolder(save(tmp_path / "b", {"experts.down_proj": stack.mT}))
    require_same(anchor, turned, pair(anchor, [turned]))


NAMES = st.lists(
    st.sampled_from(["module", "_orig_mod", "model", "layers", "0", "1", "a", "b"]),
    min_size=1,
    max_size=4,
).map(".".join)


@given(names=st.sets(NAMES, min_size=1, max_size=5), others=st.sets(NAMES, min_size=1, max_size=5))
def test_no_tensor_is_paired_twice_or_lost(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], others: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    readers = []
    for side, held in (("a", names), ("b", others)):
        (folder / side).mkdir()
        save_file({n: torch.ones(2, 2) for n in held}, folder / side / "model.safetensors")
        readers.append(SafetensorsFolder(folder / side))
    try:
        found = pair(readers[0], readers[1:])
    except CheckpointError:
        return
    (coverage,) = found.coverages
    mine = [m.anchor.label for m in coverage.matches] + [v.label for v in coverage.only_in_anchor]
    theirs = [m.current.label for m in coverage.matches]
    theirs += [view.label for view in coverage.only_in_checkpoint]
    assert sorted(mine) == sorted(names)
    assert sorted(theirs) == sorted(others)
    if names == others:
        assert all(match.anchor.label == match.current.label for match in coverage.matches)
