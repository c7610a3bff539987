"""Pickles from strangers: nothing is run, nothing outgrows its file, and the message says why."""

import math
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.checkpoints.hostile import (
    NAMES,
    RAW,
    archive,
    distributed,
    payloads,
    pickled,
    rewritten,
)
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties
from torch.distributed.checkpoint.metadata import MetadataIndex

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.trust import load_payload, load_pickle, read_dcp_metadata
from offaxis.errors import CheckpointError

ALLOWED = Access(pickle=True)
BIN = "pytorch_model.bin"


@pytest.fixture
def proof(tmp_path: Path):
    """A file that is there if anything was run."""
    file = tmp_path / "proof"
    yield file
    assert not file.exists()


def test_the_payloads_do_run_where_nothing_stops_them(tmp_path: Path) -> None:
    """Otherwise the tests below would show nothing."""
    for name in ("a shell", "eval", "exec", "a method", "a call by name", "deep inside"):
        file = tmp_path / name
        torch.load(_saved(tmp_path, payloads(file)[name]), weights_only=False)
        assert file.exists(), name


def _saved(folder: Path, item: object) -> Path:
    torch.save(item, folder / BIN)
    return folder / BIN


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_is_not_run(tmp_path: Path, proof: Path, name: str) -> None:
    file = _saved(tmp_path, payloads(proof)[name])
    with pytest.raises(CheckpointError, match="--allow-pickle: they are opened through"):
        load_pickle(file, Access())
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        load_pickle(file, ALLOWED)
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        open_checkpoint(tmp_path, ALLOWED)
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        load_payload(file, 0, file.stat().st_size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_metadata_is_not_run(tmp_path: Path, proof: Path, name: str, protocol: int) -> None:
    (tmp_path / ".metadata").write_bytes(pickled(payloads(proof)[name], protocol))
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        read_dcp_metadata(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_metadata_beside_what_is_genuine(tmp_path: Path, proof: Path, name: str) -> None:
    def change(held):
        held.planner_data = payloads(proof)[name]

    with pytest.raises(CheckpointError, match="nothing of it was run"):
        read_dcp_metadata(rewritten(distributed(tmp_path), change))


@pytest.mark.parametrize("name", RAW)
def test_pickles_that_no_pickler_writes(tmp_path: Path, name: str) -> None:
    (tmp_path / ".metadata").write_bytes(RAW[name])
    with pytest.raises(CheckpointError):
        read_dcp_metadata(tmp_path)
    if name != "a memo without end":  # of which torch's own unpickler takes no more than there is
        with pytest.raises(CheckpointError):
            load_pickle(archive(tmp_path / BIN, RAW[name]), ALLOWED)


def test_no_file_changes_what_the_next_one_is_read_with(tmp_path: Path) -> None:
    """State can be set on classes and functions, too, if they are the same for every file."""
    found = distributed(tmp_path / "good")
    before = read_dcp_metadata(found)
    name = b"\x80\x04\x8c%torch.distributed.checkpoint.metadata\x8c\x08Metadata\x93"
    size = b"\x80\x04\x8c\x05torch\x8c\x04Size\x93"
    for target in (name, size):
        for state in (b"}\x8c\x05state}sb.", b"N}\x8c\x0b__setstate__Ns\x86b."):
            (tmp_path / ".metadata").write_bytes(target + state)
            with pytest.raises(CheckpointError):
                read_dcp_metadata(tmp_path)
    assert read_dcp_metadata(found) == before


def test_genuine_metadata_says_what_torch_reads(tmp_path: Path) -> None:
    folder = distributed(tmp_path)
    theirs, ours = pickle.loads((folder / ".metadata").read_bytes()), read_dcp_metadata(folder)
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data
    assert ours.planner_data == theirs.planner_data
    assert ours.version == theirs.version


def test_metadata_of_older_torch(tmp_path: Path) -> None:
    """Properties were once a class of sharded tensors."""

    def change(held):
        entry = held.state_dict_metadata["model.w"]
        entry.properties = TensorProperties(dtype=torch.float32)

    folder = rewritten(distributed(tmp_path), change)
    found = read_dcp_metadata(folder).state_dict_metadata["model.w"]
    assert found.properties.dtype is torch.float32
    assert torch.equal(open_checkpoint(folder).read("model.w"), torch.arange(12.0).view(3, 4))


def _place(**changes):
    def change(held):
        index = MetadataIndex("model.w", torch.Size([0, 0]))
        held.storage_data[index] = replace(held.storage_data[index], **changes)

    return change


def _size(*shape: int):
    def change(held):
        held.state_dict_metadata["model.w"].size = torch.Size(shape)

    return change


def _chunk(name: str, *shape: int):
    def change(held):
        setattr(held.state_dict_metadata["model.w"].chunks[0], name, torch.Size(shape))

    return change


def _everything(held):
    held.state_dict_metadata["model.w"].size = torch.Size([1 << 40])
    chunk = held.state_dict_metadata["model.w"].chunks[0]
    chunk.offsets, chunk.sizes = torch.Size([0]), torch.Size([1 << 40])
    index = MetadataIndex("model.w", torch.Size([0, 0]))
    held.storage_data[MetadataIndex("model.w", torch.Size([0]))] = held.storage_data.pop(index)


def _extra_name(name: str):
    def change(held):
        held.state_dict_metadata[name] = held.state_dict_metadata["model.w"]
        place = held.storage_data[MetadataIndex("model.w", torch.Size([0, 0]))]
        held.storage_data[MetadataIndex(name, torch.Size([0, 0]))] = place

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_place(relative_path="../secret.distcp"), "own folder"),
        (_place(relative_path="/etc/passwd"), "own folder"),
        (_place(relative_path="link"), "a link to"),
        (_place(relative_path="nowhere"), "no such file"),
        (_place(relative_path="a\x00b"), "own folder"),
        (_place(length=1 << 50), "beyond the end"),
        (_place(offset=-8), "that is none"),
        (_place(length=8), "8 bytes for"),
        (_place(offset="0"), "a str where a int"),
        (_place(transform_descriptors=["zstd"]), "transformed"),
        (_size(3, 5), "pieces of 12 entries"),
        (_size(2, 4), "a piece"),
        (_size(12), "axes"),
        (_chunk("sizes", 3, 4, 1), "axes"),
        (_chunk("offsets", 1, 0), "a piece"),
        (_everything, "bytes for"),
        (_extra_name("a\x1b[2Jb"), "not printable"),
        (_extra_name("n" * 5000), "5,000 characters"),
        (_extra_name("a\nb"), "not printable"),
        (lambda held: held.state_dict_metadata, "where a Metadata belongs"),
        (lambda held: {"x": [held]}, "where a Metadata belongs"),
    ],
)
def test_metadata_that_claims_what_is_not_there(tmp_path: Path, change, found: str) -> None:
    folder = distributed(tmp_path / "run")
    (tmp_path / "secret.distcp").write_bytes(bytes(4096))
    (folder / "link").symlink_to(tmp_path / "secret.distcp")
    with pytest.raises(CheckpointError, match=found):
        read_dcp_metadata(rewritten(folder, change))


def test_metadata_that_is_too_large_or_a_link(tmp_path: Path, monkeypatch) -> None:
    folder = distributed(tmp_path / "run")
    monkeypatch.setattr("offaxis.checkpoints.trust.dcp.LARGEST", 100)
    with pytest.raises(CheckpointError, match="more than the 100"):
        read_dcp_metadata(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / ".metadata").symlink_to(folder / ".metadata")
    with pytest.raises(CheckpointError, match="a link to"):
        read_dcp_metadata(other)


def test_metadata_of_shared_parts_is_not_walked_without_end(tmp_path: Path) -> None:
    """A list of the same list twice, and so on, has 2 ** 200 leaves in 2 kB."""
    held: list = []
    for _ in range(200):
        held = [held, held]

    def change(metadata):
        metadata.planner_data = {"model.w": ("model", "w"), "other": held}

    folder = rewritten(distributed(tmp_path), change)
    assert read_dcp_metadata(folder).planner_data == {"model.w": ("model", "w")}
    (tmp_path / BIN).unlink(missing_ok=True)
    torch.save({"w": torch.ones(2), "other": held}, tmp_path / BIN)
    assert set(load_pickle(tmp_path / BIN, ALLOWED)) == {"w", "other"}


def test_zip_bombs(tmp_path: Path) -> None:
    good = pickled({"w": 1})
    packed = archive(tmp_path / BIN, good, method=zipfile.ZIP_DEFLATED, a=bytes(1 << 26))
    assert packed.stat().st_size < 1 << 17
    with pytest.raises(CheckpointError, match="unpacks to") as refused:
        load_pickle(packed, ALLOWED)
    assert "do not trust" in refused.value.do
    many = archive(tmp_path / BIN, good, **{str(i): b"x" for i in range(20)})
    content = bytearray(many.read_bytes())
    directory = content.index(b"PK\x01\x02")
    for place in range(directory, len(content) - 46):
        if content[place : place + 4] == b"PK\x01\x02":
            content[place + 20 : place + 28] = (1 << 30).to_bytes(4, "little") * 2
    many.write_bytes(content)
    with pytest.raises(CheckpointError, match="records of"):
        load_pickle(many, ALLOWED)


def test_an_encrypted_archive(tmp_path: Path) -> None:
    file = archive(tmp_path / BIN, pickled({"w": 1}))
    content = bytearray(file.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        load_pickle(file, ALLOWED)


def test_a_pickle_that_is_too_large(tmp_path: Path, monkeypatch) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / BIN)
    monkeypatch.setattr("offaxis.checkpoints.trust.archives.LARGEST_PICKLE", 16)
    with pytest.raises(CheckpointError, match="a pickle of"):
        load_pickle(tmp_path / BIN, ALLOWED)


@pytest.mark.parametrize("kind", ["legacy", "tar", "bare", "script", "empty", "text", "no pickle"])
def test_other_archives_are_told_and_refused(tmp_path: Path, kind: str, proof: Path) -> None:
    file = tmp_path / BIN
    bare = pickle.dumps(payloads(proof)["a shell"])
    match kind:
        case "legacy":
            torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
        case "tar":
            (tmp_path / "pickle").write_bytes(bare)
            with tarfile.open(file, "w") as held:
                held.add(tmp_path / "pickle", "pickle")
        case "bare":
            file.write_bytes(bare)
        case "script":
            with zipfile.ZipFile(file, "w") as held:
                held.writestr("archive/constants.pkl", bare)
                held.writestr("archive/data.pkl", pickled({"w": 1}))
                held.writestr("archive/code/x.py", "raise SystemExit")
        case "empty":
            file.write_bytes(b"")
        case "text":
            file.write_text("version https://git-lfs.github.com/spec/v1")
        case "no pickle":
            with zipfile.ZipFile(file, "w") as held:
                held.writestr("archive/other", b"")
    with pytest.raises(CheckpointError, match=r"torch\.save"):
        load_pickle(file, ALLOWED)


def test_tensors_larger_than_their_bytes(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / BIN)
    with pytest.raises(CheckpointError, match=r"shape \[1048576, 1048576\] over 4 bytes"):
        load_pickle(tmp_path / BIN, ALLOWED)


@pytest.mark.parametrize("name", ["a\x1b]0;x\x07", "a\nb", "", "n" * 2000, "\u202egnp.exe"])
def test_names_that_no_model_gives(tmp_path: Path, name: str) -> None:
    torch.save({name: torch.ones(2, 2)}, tmp_path / BIN)
    with pytest.raises(CheckpointError, match="printable names") as refusal:
        load_pickle(tmp_path / BIN, ALLOWED)
    assert str(refusal.value).count("\n") == 3
    assert str(refusal.value).replace("\n", "").isprintable()


def test_what_weights_are_made_of_is_read(tmp_path: Path) -> None:
    shared = torch.randn(4, 6)
    state = {
        "a": shared,
        "b": shared[1:3].T,
        "p": torch.nn.Parameter(torch.ones(3)),
        "h": torch.ones(2).half(),
        "scalar": torch.tensor(math.pi),
        "epoch": 3,
        "nested": {"x": [torch.zeros(1)]},
    }
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.save(state, tmp_path / BIN)
    found = load_pickle(tmp_path / BIN, ALLOWED)
    assert torch.equal(found["b"], state["b"])
    assert torch.equal(found["p"], torch.ones(3))
    torch.save(model.state_dict(), tmp_path / BIN)
    found = load_pickle(tmp_path / BIN, ALLOWED)
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
