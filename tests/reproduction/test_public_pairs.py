"""The public pairs, through a mirror of tiny models: pinned, measured, refused when moved."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from tests.hub_mirror import mirrored
from tests.models import anchor_weights, moved, save

from offaxis.checkpoints import hub
from offaxis.checkpoints.hub import HubId, client
from offaxis.cli import run
from offaxis.errors import CheckpointError, ResultsError
from offaxis.reproduction.public_pairs import Pins, load_pairs, measure_pairs

LINEAR = [name for name in anchor_weights() if "proj" in name]


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    with mirrored(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture
def pair(mirror, tmp_path):
    """One of the five, served by the mirror as bf16 files."""
    pair = load_pairs()["klear-sft"]
    base = save(tmp_path / "base", anchor_weights(), torch.bfloat16)
    tuned = save(tmp_path / "tuned", moved(anchor_weights(), 3e-3), torch.bfloat16)
    mirror.add(pair.anchor, base)
    mirror.add(pair.tuned, tuned)
    return pair


def test_the_five_pairs_are_those_of_table_1():
    pairs = load_pairs()
    assert {name: pair.published for name, pair in pairs.items()} == {
        "klear-sft": 0.6,
        "unireason-sft": 18.8,
        "klear-grpo": 69.9,
        "gt-grpo": 79.0,
        "polaris-dapo": 79.9,
    }
    for pair in pairs.values():
        assert HubId.read(f"{pair.anchor}@main")
        assert HubId.read(f"{pair.tuned}@main")


def test_a_pair_is_pinned_measured_and_counted_as_the_weights_say(mirror, pair, tmp_path):
    found = measure_pairs(tmp_path / "out", [pair], workers=1)
    assert not found.refused
    rows = [
        row
        for row in found.table.to_pylist()
        if (row["quantity"], row["matrices"], row["point"]) == ("sparsity", "linear", "end")
    ]
    (row,) = rows
    old, new = anchor_weights(), moved(anchor_weights(), 3e-3)
    same = sum(int((old[n].bfloat16() == new[n].bfloat16()).sum()) for n in LINEAR)
    assert row["arm"] == "public-klear-sft"
    assert row["value"] == pytest.approx(same / sum(old[n].numel() for n in LINEAR))
    pins = Pins(tmp_path / "out" / "pins.json").read()
    assert pins == {repo: mirror.commit(repo, "main") for repo in (pair.anchor, pair.tuned)}
    manifest = json.loads((tmp_path / "out" / "results" / "manifest.json").read_text())
    assert manifest["study"]["pins"] == pins


def test_a_moved_revision_is_refused_and_named(mirror, pair, tmp_path):
    pins = Pins(tmp_path / "pins.json")
    first = pins.pinned(pair.tuned)
    assert pins.pinned(pair.tuned) == first
    mirror.add(pair.tuned, save(tmp_path / "newer", anchor_weights()))
    with pytest.raises(CheckpointError) as caught:
        pins.pinned(pair.tuned)
    assert first.revision in caught.value.expected
    assert caught.value.found == mirror.commit(pair.tuned, "main") != first.revision
    assert pins.read() == {pair.tuned: first.revision}


def test_a_pinned_commit_in_the_cache_needs_no_hub(mirror, pair, tmp_path, monkeypatch):
    pins = Pins(tmp_path / "pins.json")
    first = pins.pinned(pair.tuned)
    folder = hub.fetch(first)
    monkeypatch.setattr(client, "IS_OFFLINE", True)
    assert hub.fetch(pins.pinned(pair.tuned)) == folder
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        pins.pinned(pair.anchor)


def test_what_cannot_be_fetched_is_returned_with_its_reason(mirror, tmp_path):
    pair = load_pairs()["gt-grpo"]
    found = measure_pairs(tmp_path / "out", [pair], workers=1)
    assert found.table.num_rows == 0
    assert "no such repository" in found.refused["gt-grpo"].found


def test_damaged_pins_are_refused(tmp_path):
    (tmp_path / "pins.json").write_text("[]")
    with pytest.raises(ResultsError, match="commits"):
        Pins(tmp_path / "pins.json").read()


def test_the_verb_measures_what_the_hub_has_and_says_what_it_has_not(
    mirror, pair, tmp_path, capsys
):
    out = tmp_path / "out"
    asked = ["reproduce", "tab1", "--scale", "paper", "--workers", "1", "--json", "--out", str(out)]
    assert run(asked) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted(said["failed"]) == ["gt-grpo", "klear-grpo", "polaris-dapo", "unireason-sft"]
    assert any("not confirmed" in note for note in said["notes"])
    table = pq.read_table(said["study"])
    assert set(table["arm"].to_pylist()) == {"public-klear-sft"}
    assert table.num_rows == said["rows"] > 0


def test_what_has_to_be_trained_on_a_cluster_is_refused_and_costed(tmp_path, capsys):
    asked = ["reproduce", "fig4", "--scale", "paper", "--out", str(tmp_path / "out")]
    assert run(asked) == 2
    assert "cluster" in capsys.readouterr().err
    assert run([*asked, "--dry-run"]) == 0
    assert "one GPU" in capsys.readouterr().err
