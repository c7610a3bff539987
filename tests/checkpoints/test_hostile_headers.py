"""Headers, indexes and names of safetensors folders from strangers: refused before they cost."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.hostile import distributed
from tests.models import anchor_weights, moved, save

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.names.model import model_at
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.checkpoints.trust import own_file, read_header, read_object
from offaxis.checkpoints.trust.headers import MOST_AXES
from offaxis.checkpoints.trust.names import MOST_TENSORS
from offaxis.errors import CheckpointError
from offaxis.measurement.options import Options, passes
from offaxis.measurement.plan import make_plan
from offaxis.measurement.stream import run_task
from offaxis.runs import RunFolder
from offaxis.table import ResultsFolder

INDEX = "model.safetensors.index.json"


def write(folder: Path, header: bytes | dict, body: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return file


def entry(begin: int, end: int, shape: object = (2, 2), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


CASES: dict[str, tuple[bytes | dict, int]] = {
    "overlapping": ({"a": entry(0, 16), "b": entry(8, 24)}, 24),
    "a hole": ({"a": entry(0, 16), "b": entry(24, 40)}, 40),
    "beyond the end": ({"a": entry(0, 16), "b": entry(16, 32)}, 20),
    "before the beginning": ({"a": entry(-16, 0)}, 16),
    "backwards": ({"a": entry(16, 0)}, 16),
    "one byte for all": ({"a": entry(0, 16), "b": entry(0, 16)}, 16),
    "a shape too large for its bytes": ({"a": entry(0, 16, [1 << 40, 1 << 40])}, 16),
    "a shape that overflows": ({"a": entry(0, 0, [1 << 62, 4])}, 0),
    "a negative shape": ({"a": entry(0, 16, [-2, -2])}, 16),
    "a shape of words": ({"a": entry(0, 16, ["2", "2"])}, 16),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, 16),
    "no such dtype": ({"a": entry(0, 16, dtype="F33")}, 16),
    "an entry that is a list": ({"a": [0, 16]}, 16),
    "more bytes than tensors": ({"a": entry(0, 16)}, 1 << 10),
    "double keys": (b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2), 16),
    "double shapes": (
        b'{"a":{"dtype":"F32","shape":[2,2],"shape":[1,4],"data_offsets":[0,16]}}',
        16,
    ),
    "a list": (b"[]", 0),
    "nesting": (b'{"a":' + b"[" * 100_000, 0),
    "no JSON": (b"{", 0),
    "a number of many digits": (b'{"a":' + b"9" * 10_000 + b"}", 0),
    "no UTF-8": (b'{"\xff\xfe":1}', 0),
    "many axes": ({"a": entry(0, 16, [1] * (MOST_AXES - 1) + [2, 2])}, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_headers_that_lie(tmp_path: Path, name: str) -> None:
    header, body = CASES[name]
    file = write(tmp_path, header, bytes(body))
    for reading in (lambda: read_header(file), lambda: SafetensorsFolder(tmp_path).tensors()):
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            reading()


@pytest.mark.parametrize("length", [0, 1, 1 << 25, (1 << 25) + 1, 1 << 40, (1 << 64) - 1])
def test_headers_of_another_length_than_they_say(tmp_path: Path, length: int) -> None:
    file = write(tmp_path, {"a": entry(0, 16)}, bytes(16), length)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_header(file)


@pytest.mark.parametrize(
    "name", ["", "n" * 1025, "a\x1b[2J", "a\nb", "a\tb", "a\x00b", "\u202eevil", "a\x9b31m"]
)
def test_names_that_no_model_gives(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: entry(0, 16)}, bytes(16))
    with pytest.raises(CheckpointError, match="printable names") as refusal:
        SafetensorsFolder(tmp_path).tensors()
    assert str(refusal.value).replace("\n", "").isprintable()


def measured(anchor: Path, tuned: Path, out: Path) -> ResultsFolder:
    """Measure one checkpoint in this process."""
    options = Options(passes=passes(["stored"], ["norm"]), draws=2, access=Access(pickle=True))
    results = ResultsFolder(out)
    for task in make_plan(find_trajectories([anchor, tuned]), results, options, str).tasks:
        run_task(task)
    return results


def test_names_with_markup_are_measured_as_they_are(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>[bold red]{layer}'\"; rm -rf ~ ../../x :boom:.weight"
    weights = {name: anchor_weights()["model.layers.0.self_attn.q_proj.weight"]}
    anchor = save(tmp_path / "anchor", weights)
    results = measured(anchor, save(tmp_path / "tuned", moved(weights, 0.1)), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"anchor", "tuned", "out"}
    assert len(list(results.root.rglob("*.safetensors"))) == 1


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offaxis.checkpoints.trust.names.MOST_TENSORS", 5)
    weights = anchor_weights()
    with pytest.raises(CheckpointError, match="6 tensors"):
        SafetensorsFolder(save(tmp_path / "one", weights)).tensors()
    many = tmp_path / "many"
    many.mkdir()
    for name, W in weights.items():
        save_file({name: W}, many / f"{name}.safetensors")
    mapping = {name: f"{name}.safetensors" for name in weights}
    (many / INDEX).write_text(json.dumps({"weight_map": mapping}))
    with pytest.raises(CheckpointError, match="6 tensors"):
        SafetensorsFolder(many).tensors()


READS = """
import resource, sys, time
from pathlib import Path
from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.process_time()
count = len(SafetensorsFolder(Path(sys.argv[1])).tensors())
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held
print(count, time.process_time() - begin, more)
"""


def test_100_000_tensors_are_read_in_seconds(tmp_path: Path) -> None:
    count = 100_000
    assert count < MOST_TENSORS
    header = {f"layers.{i}.w": entry(4 * i, 4 * i + 4, [1, 1]) for i in range(count)}
    write(tmp_path, header, bytes(4 * count))
    done = subprocess.run(
        [sys.executable, "-c", READS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    read, seconds, kilobytes = done.stdout.split()
    assert int(read) == count
    assert float(seconds) < 20
    assert int(kilobytes) < 1_000_000


def test_an_index_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "a"}}))
    monkeypatch.setattr("offaxis.checkpoints.trust.documents.LARGEST", 10)
    with pytest.raises(CheckpointError, match="more than the 10"):
        SafetensorsFolder(tmp_path).tensors()


def test_an_index_of_more_shards_than_anyone_saves(tmp_path: Path) -> None:
    mapping = {str(i): f"{i}.safetensors" for i in range(10_001)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": mapping}))
    with pytest.raises(CheckpointError, match="10,001 shards"):
        SafetensorsFolder(tmp_path).tensors()


@pytest.mark.parametrize(
    "shard",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "..",
        ".",
        "",
        "a\\b",
        "C:x",
        "a\x00b",
        "n" * 300,
        "~/x\n",
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "x").write_bytes(b"secret")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(CheckpointError, match="own folder"):
        SafetensorsFolder(folder).tensors()
    with pytest.raises(CheckpointError, match="own folder"):
        own_file(folder, shard, deep=True)


def test_links(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "model"
    save(outside, anchor_weights())
    folder.mkdir()
    links: dict[str, Callable[[], object]] = {
        "model.safetensors": SafetensorsFolder(folder).tensors,
        INDEX: SafetensorsFolder(folder).tensors,
        "config.json": lambda: read_object(folder, "config.json"),
    }
    for name, reading in links.items():
        (outside / "config.json").write_text("{}")
        (outside / INDEX).write_text("{}")
        (folder / name).symlink_to(outside / name)
        with pytest.raises(CheckpointError, match="a link to"):
            reading()
        (folder / name).unlink()
    (folder / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError):
        own_file(folder, "loop")
    (folder / "below").mkdir()
    (folder / "below" / "file").write_bytes(b"x")
    assert own_file(folder, "below/file", deep=True).read_bytes() == b"x"
    with pytest.raises(CheckpointError, match="own folder"):
        own_file(folder, "below/file")
    (folder / "way").symlink_to(outside)
    with pytest.raises(CheckpointError, match="a link to"):
        own_file(folder, "way/model.safetensors", deep=True)


def test_a_manifest_cannot_name_an_anchor_elsewhere(tmp_path: Path) -> None:
    save(tmp_path / "secret", anchor_weights())
    folder = tmp_path / "run"
    save(folder / "checkpoint-5", anchor_weights(1))
    ours = {"format": "offaxis-run", "version": 1}
    for anchor in ("../secret", str(tmp_path / "secret")):
        (folder / "manifest.json").write_text(json.dumps({**ours, "anchor": anchor}))
        with pytest.raises(CheckpointError, match="in the run's own folder"):
            find_trajectories([folder])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", ["safetensors", "bin", "distributed"])
def test_what_is_no_number_is_refused(tmp_path: Path, form: str, bad: float) -> None:
    weights = anchor_weights()
    anchor = save(tmp_path / "anchor", weights)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    tuned = tmp_path / "tuned"
    if form == "bin":
        tuned.mkdir()
        torch.save(weights, tuned / "pytorch_model.bin")
    elif form == "distributed":
        distributed(tuned, weights)
    else:
        save(tuned, weights)
    with pytest.raises(CheckpointError, match="1 of 2560 entries NaN or infinite"):
        measured(anchor, tuned, tmp_path / "out")


def test_code_beside_the_weights_is_left_alone(tmp_path: Path) -> None:
    """What `trust_remote_code` would import, and what DeepSpeed lays beside its files."""
    folder = save(tmp_path, anchor_weights())
    for name in ("modeling_evil.py", "zero_to_fp32.py", "conftest.py", "__init__.py"):
        (folder / name).write_text("raise SystemExit('run')")
    auto = {"AutoConfig": "modeling_evil.Config", "AutoModel": "modeling_evil.Model"}
    (folder / "config.json").write_text(json.dumps({"auto_map": auto}))
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"):
        (folder / name).write_bytes(b"cos\nabort\n(tR.")
    reader = open_checkpoint(folder)
    assert all(reader.read(name).shape for name in reader.tensors())


def test_a_linked_config_or_manifest_is_not_followed(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"format": "offaxis-run", "version": 1, "model_type": "qwen3"}')
    folder = tmp_path / "run"
    folder.mkdir()
    verl = tmp_path / "actor"
    outside = tmp_path / "outside"
    for made in (verl, outside):
        made.mkdir()
    (outside / "config.json").write_text(secret.read_text())
    (verl / "huggingface").symlink_to(outside)
    (folder / "config.json").symlink_to(secret)
    (folder / "manifest.json").symlink_to(secret)
    (folder / "log.jsonl").symlink_to(secret)
    for read in (
        lambda: model_at(folder),
        lambda: model_at(verl),
        RunFolder(folder).manifest,
        RunFolder(folder).log,
    ):
        with pytest.raises(CheckpointError, match="a link to"):
            read()
