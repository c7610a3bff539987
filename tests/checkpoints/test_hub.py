"""The hub in place of folders, through a mirror of tiny models on loopback."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.hub_mirror import mirrored
from tests.models import anchor_weights, moved, save

from offaxis.checkpoints import hub
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.hub import HubId, client
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.cli import run
from offaxis.errors import CheckpointError, UsageError


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    with mirrored(monkeypatch, tmp_path / "cache") as found:
        yield found


def sharded(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
    mapping = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    return folder


@pytest.fixture
def pair(mirror, tmp_path):
    """A base in one file and a tuned model in shards, with files that are never to be fetched."""
    base = save(tmp_path / "base", anchor_weights())
    tuned = sharded(tmp_path / "tuned", moved(anchor_weights(), 1e-2))
    for folder in (base, tuned):
        (folder / "config.json").write_text('{"model_type": "qwen3"}')
        (folder / "tokenizer.json").write_text("{}")
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")
        (folder / "modeling.py").write_text("raise SystemExit")
        (folder / "consolidated.safetensors").write_bytes(b"another copy")
    return mirror.add("org/base", base), mirror.add("org/tuned", tuned)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("org/name@main", HubId("org/name", "main")),
        ("org/na.me-1@refs/pr/3", HubId("org/na.me-1", "refs/pr/3")),
        ("org/name", None),
        ("name@main", None),
        ("/org/name@main", None),
        ("org/name@../main", None),
        ("a/b/c@main", None),
        ("-org/name@main", None),
        ("org/name@", None),
    ],
)
def test_what_names_a_model_of_the_hub(text, named):
    assert HubId.read(text) == named


def test_a_path_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert HubId.of(Path("org/name@main")) == HubId("org/name", "main")
    save(tmp_path / "org" / "name@main", anchor_weights())
    assert HubId.of(Path("org/name@main")) is None


@pytest.mark.parametrize("repo", ["org/base", "org/tuned"])
def test_headers_tell_what_the_model_tells(mirror, pair, repo, tmp_path):
    snapshot = hub.look_up(HubId(repo, "main"))
    assert snapshot.commit == mirror.commit(repo, "main")
    laid = hub.write_headers(snapshot, tmp_path / "plan")
    real = open_checkpoint(tmp_path / repo.removeprefix("org/"))
    assert open_checkpoint(laid).tensors() == real.tensors()
    assert not [name for name in mirror.fetched() if name.endswith(".safetensors")]


def test_a_header_is_not_the_whole_file(mirror, tmp_path):
    big = {"model.layers.0.mlp.up_proj.weight": torch.zeros(1024, 1024)}
    mirror.add("org/big", save(tmp_path / "big", big))
    hub.write_headers(hub.look_up(HubId("org/big", "main")), tmp_path / "plan")
    assert mirror.bytes_of["model.safetensors"] < 110_000


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_nothing_is_fetched_but_the_model_and_its_json(mirror, pair, with_tokenizer):
    for repo in ("org/base", "org/tuned"):
        hub.fetch(HubId(repo, "main"), with_tokenizer=with_tokenizer)
    expected = {
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors",
        "model.safetensors.index.json",
    } | ({"tokenizer.json"} if with_tokenizer else set())
    assert set(mirror.fetched()) == expected


def test_what_is_fetched_is_the_model_bit_for_bit(pair, tmp_path):
    folder = hub.fetch(HubId("org/tuned", pair[1]))
    here, there = open_checkpoint(folder), open_checkpoint(tmp_path / "tuned")
    for name in there.tensors():
        torch.testing.assert_close(here.read(name), there.read(name), rtol=0, atol=0)


def test_a_commit_in_the_cache_is_not_asked_for_again(mirror, pair, monkeypatch):
    named = HubId("org/tuned", pair[1])
    assert hub.cached(named) is None
    folder = hub.fetch(named)
    count = len(mirror.requests)
    monkeypatch.setattr(client, "IS_OFFLINE", True)
    assert hub.fetch(named) == hub.cached(named) == folder
    assert len(mirror.requests) == count
    (folder / "model-2.safetensors").unlink()
    assert hub.cached(named) is None


def refusal(*named: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        hub.fetch(HubId(*named))
    assert str(HubId(*named))[:8] in caught.value.where
    return caught.value


def test_offline_is_a_refusal_that_says_so(pair, monkeypatch):
    monkeypatch.setattr(client, "IS_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal("org/base", "main").found


def test_what_the_hub_does_not_have_is_refused(pair):
    assert "no such repository" in refusal("org/nothing", "main").found
    assert "no such revision" in refusal("org/base", "v9").found


def test_a_hub_that_cannot_be_reached_is_refused(pair, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "network" in refusal("org/base", "main").do


def test_a_model_of_pickles_is_refused(mirror, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    mirror.add("org/old", folder)
    assert refusal("org/old", "main").found == "pytorch_model.bin"
    assert mirror.fetched() == []


@pytest.mark.parametrize("shard", ["../../evil.safetensors", "evil.bin", "sub/evil.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(mirror, tmp_path, shard):
    folder = tmp_path / "hostile"
    (folder / "sub").mkdir(parents=True)
    (folder / "evil.bin").write_bytes(b"x")
    (folder / "sub" / "evil.safetensors").write_bytes(b"x")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    mirror.add("org/hostile", folder)
    assert refusal("org/hostile", "main").found == repr(shard)


def test_a_header_that_claims_more_than_its_file_is_refused(mirror, tmp_path):
    folder = save(tmp_path / "cut", anchor_weights())
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    mirror.add("org/cut", folder)
    snapshot = hub.look_up(HubId("org/cut", "main"))
    with pytest.raises(CheckpointError, match="truncated"):
        hub.write_headers(snapshot, tmp_path / "plan")


def test_no_room_is_said_before_the_download(mirror, pair, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "0.0 GB free" in refusal("org/base", "main").found
    assert mirror.fetched() == []


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("offaxis.errors.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"offaxis\[hub\]"):
        hub.fetch(HubId("org/base", "main"))


def test_a_dry_run_plans_from_headers_alone(mirror, pair, capsys):
    assert run(["measure", "org/base@main", "org/tuned@main", "--out", "o", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "5 matrices" in said.err
    assert f"org/tuned@main is {pair[1]}" in said.err.replace("\n", " ")
    assert not [name for name in mirror.fetched() if name.endswith(".safetensors")]


def test_the_plan_is_that_of_the_folders(mirror, pair, tmp_path, capsys):
    plans = []
    for paths in (["org/base@main", "org/tuned@main"], [tmp_path / "base", tmp_path / "tuned"]):
        arguments = ["measure", *map(str, paths), "--run", "r", "--out", "o", "--dry-run", "--json"]
        assert run(arguments) == 0
        plans.append(json.loads(capsys.readouterr().out))
    for plan in plans:
        del plan["core_minutes"], plan["core_minutes_fast"]  # timed anew
    assert plans[0] == plans[1]


def test_measure_fetches_and_measures(mirror, pair, tmp_path, capsys):
    out = tmp_path / "results"
    asked = ["measure", "org/base@main", f"org/tuned@{pair[1]}", "--out", str(out)]
    assert run([*asked, "--diagnostics", "sparsity", "--workers", "1"]) == 0
    (entry,) = json.loads((out / "manifest.json").read_text())["runs"]
    assert entry["name"] == "tuned"
    assert entry["checkpoint_paths"]["1"].endswith(pair[1])


def test_what_does_not_pair_is_refused_before_anything_is_fetched(mirror, pair, tmp_path, capsys):
    other = {"model.layers.0.mlp.up_proj.weight": torch.zeros(7, 5)}
    mirror.add("org/other", save(tmp_path / "other", other))
    assert run(["measure", "org/base@main", "org/other@main", "--out", "o"]) in (3, 4)
    assert not [name for name in mirror.fetched() if name.endswith(".safetensors")]


def test_snapshots_are_named_after_their_repository(pair):
    base, tuned = (hub.fetch(HubId(repo, "main")) for repo in ("org/base", "org/tuned"))
    (found,) = find_trajectories([base, tuned])
    assert found.run == "tuned"


def test_a_missing_folder_is_no_reason_to_ask_the_hub(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["measure", "runs/opd", "runs/sft", "--out", "o"]) == 3
    assert "org/name@revision" in capsys.readouterr().err
    assert mirror.requests == []


def test_inspect_tells_of_a_model_of_the_hub_what_it_tells_of_its_folder(
    mirror, pair, tmp_path, capsys
):
    said = []
    for path in ("org/tuned@main", tmp_path / "tuned"):
        assert run(["inspect", str(path), "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["path"] == "org/tuned@main"
    assert said[0]["measure"] == "offaxis measure ANCHOR org/tuned@main"
    same = ("kind", "format", "tensors", "parameters", "dtypes")
    assert {key: said[0].get(key) for key in same} == {key: said[1].get(key) for key in same}
    assert not [name for name in mirror.fetched() if name.endswith(".safetensors")]
