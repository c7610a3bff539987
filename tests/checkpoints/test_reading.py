"""Reading Hugging Face folders, whole and sharded, and refusing what is wrong with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.models import anchor_weights, save

from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.pairing import pair
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.checkpoints.views import Skipped, layer_and_role, views
from offaxis.errors import CheckpointError


def sharded(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path.mkdir()
    names = sorted(weights)
    mapping = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in sorted(set(mapping.values())):
        held = {name: weights[name].contiguous() for name in names if mapping[name] == shard}
        save_file(held, path / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": mapping}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_whole_and_sharded_hold_the_same(tmp_path: Path) -> None:
    weights = anchor_weights()
    one = SafetensorsFolder(save(tmp_path / "one", weights))
    many = SafetensorsFolder(sharded(tmp_path / "many", weights))
    assert one.tensors() == many.tensors()
    for name, W in weights.items():
        assert torch.equal(one.read(name), W)
        assert torch.equal(many.read(name), W)
    assert one.digest() == SafetensorsFolder(save(tmp_path / "copy", weights)).digest()
    assert one.digest() != many.digest()


def test_one_entry_of_a_stack(tmp_path: Path) -> None:
    stack = torch.arange(24.0).view(2, 3, 4)
    folder = SafetensorsFolder(save(tmp_path, {"model.layers.0.experts.up_proj": stack}))
    (info,) = folder.tensors().values()
    first, second = views(info)
    assert (first.view, second.view) == ("expert.0", "expert.1")
    assert (second.rows, second.cols, second.layer, second.role) == (3, 4, 0, "up_proj")
    assert torch.equal(folder.read(info.name, second.entry), stack[1])


def test_roles_and_what_is_no_matrix(tmp_path: Path) -> None:
    assert layer_and_role("model.layers.12.self_attn.q_proj.weight") == (12, "q_proj")
    assert layer_and_role("transformer.h.3.mlp.c_fc.weight") == (3, "c_fc")
    assert layer_and_role("lm_head.weight") == (None, "lm_head")
    folder = SafetensorsFolder(save(tmp_path, {"norm.weight": torch.ones(3)}))
    (vector,) = views(folder.tensors()["norm.weight"])
    assert (vector.kind, vector.rows, vector.cols) == ("elements", 3, 1)
    assert views(TensorInfo("empty", (0, 4), "float32")) == Skipped("empty", "empty")


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/secret.safetensors", "a/b"])
def test_an_index_cannot_point_outside(tmp_path: Path, shard: str) -> None:
    save_file({"w": torch.ones(2, 2)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": {"w": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="own folder"):
        SafetensorsFolder(folder).tensors()


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2, 2)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "shard.safetensors").symlink_to(tmp_path / "secret.safetensors")
    index = {"weight_map": {"w": "shard.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="own folder"):
        SafetensorsFolder(folder).tensors()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("not json", "Expecting value"),
        ("[]", "a JSON list"),
        ('{"weight_map": []}', "of other things"),
        ('{"weight_map": {"w": 1}}', "of other things"),
        ('{"weight_map": {}, "weight_map": {}}', "'weight_map' twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=found):
        SafetensorsFolder(tmp_path).tensors()


def test_a_missing_shard_and_a_tensor_missing_from_its_shard(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", anchor_weights())
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="ghost"):
        SafetensorsFolder(folder).tensors()
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        SafetensorsFolder(folder).tensors()


@pytest.mark.parametrize("keep", [0, 4, 100, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = save(tmp_path, anchor_weights()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        SafetensorsFolder(tmp_path).tensors()


def test_pairing_refuses_what_does_not_match(tmp_path: Path) -> None:
    weights = anchor_weights()
    anchor = SafetensorsFolder(save(tmp_path / "anchor", weights))
    fewer = dict(list(weights.items())[1:])
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens"):
        pair(anchor, SafetensorsFolder(save(tmp_path / "fewer", fewer)))
    more = {**weights, "model.extra.weight": torch.ones(2, 2)}
    with pytest.raises(CheckpointError, match=r"model\.extra"):
        pair(anchor, SafetensorsFolder(save(tmp_path / "more", more)))
    other = {**weights, "model.embed_tokens.weight": torch.ones(25, 32)}
    with pytest.raises(CheckpointError, match=r"\[25, 32\]"):
        pair(anchor, SafetensorsFolder(save(tmp_path / "other", other)))
    whole = {name: W.to(torch.int8) for name, W in weights.items()}
    held = SafetensorsFolder(tmp_path / "int8")
    held.path.mkdir()
    save_file(whole, held.path / "model.safetensors")
    with pytest.raises(CheckpointError, match="unquantised"):
        pair(anchor, held)
    norms = SafetensorsFolder(save(tmp_path / "norms", {"norm.weight": torch.ones(3)}))
    with pytest.raises(CheckpointError, match="at least one weight matrix"):
        pair(norms, norms)


def test_a_tensor_in_two_shards_or_in_the_wrong_one_is_refused(tmp_path: Path) -> None:
    weights = anchor_weights()
    folder = sharded(tmp_path / "model", weights)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first, second = sorted(set(content["weight_map"].values()))
    name = next(n for n, shard in content["weight_map"].items() if shard == first)
    content["weight_map"][name] = second
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="do not belong together"):
        SafetensorsFolder(folder).tensors()
    held = {n: W for n, W in weights.items() if content["weight_map"][n] == second}
    save_file({n: W.contiguous() for n, W in held.items()}, folder / second)
    with pytest.raises(CheckpointError, match="each tensor once"):
        SafetensorsFolder(folder).tensors()


def test_the_hubs_cache_of_links_is_read(tmp_path: Path) -> None:
    weights = anchor_weights()
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    save(tmp_path / "save", weights)
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (tmp_path / "save" / "model.safetensors").rename(blobs / "0f3a")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0f3a")
    assert set(SafetensorsFolder(snapshot).tensors()) == set(weights)
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "model.safetensors").symlink_to(blobs / "0f3a")
    with pytest.raises(CheckpointError, match="a link to"):
        SafetensorsFolder(stray).tensors()


def test_a_whole_model_goes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", anchor_weights(1))
    save(folder, anchor_weights(2))
    name = "model.embed_tokens.weight"
    assert torch.equal(SafetensorsFolder(folder).read(name), anchor_weights(2)[name])


def test_vectors_in_three_axes_are_no_stack() -> None:
    (vectors,) = views(TensorInfo("conv.weight", (64, 1, 4), "float32"))
    assert (vectors.kind, vectors.rows, vectors.cols) == ("elements", 256, 1)
