"""Checkpoints are hashed again exactly when their files may have changed."""

import os
import time
from pathlib import Path

import pytest

from offaxis.measurement import digests
from offaxis.measurement.digests import hash_checkpoint, remember, remembered
from tests.models import anchor_weights, moved, save


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need no rest before their hashes are kept."""
    monkeypatch.setattr(digests, "_SETTLED_NS", 0)
    time.sleep(0.02)  # more than the kernel's clock tick, by which files are stamped


def noted(path: Path, memory: Path) -> str:
    time.sleep(0.02)
    found = hash_checkpoint(path)
    remember(memory, [(path, found)])
    return found.digest


@pytest.mark.usefixtures("settled")
def test_a_file_at_rest_is_read_once(tmp_path: Path) -> None:
    path, memory = save(tmp_path / "a", anchor_weights()), tmp_path / "memory.json"
    digest = noted(path, memory)
    assert remembered(memory, [path]) == {path: digest}
    assert remembered(memory, [tmp_path / "a" / ".." / "a"]) == {
        tmp_path / "a" / ".." / "a": digest
    }


@pytest.mark.usefixtures("settled")
def test_a_file_that_changed_is_noticed_whatever_its_time_says(tmp_path: Path) -> None:
    path, memory = save(tmp_path / "a", anchor_weights()), tmp_path / "memory.json"
    digest = noted(path, memory)
    file = path / "model.safetensors"
    before = file.stat()
    save(path, moved(anchor_weights(), 1e-3))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert remembered(memory, [path]) == {}
    assert noted(path, memory) != digest


def test_a_file_just_written_is_not_trusted(tmp_path: Path) -> None:
    path, memory = save(tmp_path / "a", anchor_weights()), tmp_path / "memory.json"
    noted(path, memory)
    assert not memory.exists()


@pytest.mark.usefixtures("settled")
def test_a_file_that_changed_while_it_was_read_is_not_trusted(tmp_path: Path) -> None:
    path, memory = save(tmp_path / "a", anchor_weights()), tmp_path / "memory.json"
    time.sleep(0.02)
    found = hash_checkpoint(path)
    save(path, moved(anchor_weights(), 1e-3))
    remember(memory, [(path, found)])
    assert not memory.exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", '{"%s": 3}', '{"%s": {"state": []}}'])
def test_a_damaged_memory_is_ignored_and_mended(tmp_path: Path, damage: str) -> None:
    path, memory = save(tmp_path / "a", anchor_weights()), tmp_path / "memory.json"
    memory.write_text(damage.replace("%s", str(path)))
    assert remembered(memory, [path]) == {}
    digest = noted(path, memory)
    assert remembered(memory, [path]) == {path: digest}
