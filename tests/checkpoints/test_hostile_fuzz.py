"""Mutated bytes of every format: measured or refused with our error, in bounded time and memory."""

import contextlib
import json
import resource
import shutil
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.checkpoints.hostile import RAW, distributed

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.inspection import inspect
from offaxis.errors import OffaxisError

EVERYTHING = Access(pickle=True, quantised=True)
SECONDS, KILOBYTES = 60, 1_500_000
HOUR = 3600

Change = Callable[[bytes], bytes]

INTERESTING = st.sampled_from(
    [bytes(4), b"\xff" * 8, b"\xff\xff\xff\x7f", (1 << 62).to_bytes(8, "little"), b"../", b"\x00"]
)
PLACE = st.floats(0, 1, exclude_max=True)


def overwritten(content: bytes, at: float, more: bytes) -> bytes:
    place = int(at * len(content))
    return content[:place] + more + content[place + len(more) :]


def inserted(content: bytes, at: float, more: bytes) -> bytes:
    place = int(at * len(content))
    return content[:place] + more + content[place:]


def removed(content: bytes, at: float, more: bytes) -> bytes:
    place = int(at * len(content))
    return content[:place] + content[place + max(1, len(more)) :]


def doubled(content: bytes, at: float, more: bytes) -> bytes:
    place = int(at * len(content))
    return content[:place] + content[place : place + 16 * len(more)] * 2 + content[place:]


def cut(content: bytes, at: float, more: bytes) -> bytes:
    return content[: int(at * len(content))] + more


MUTATION = st.tuples(
    st.sampled_from([overwritten, inserted, removed, doubled, cut]),
    PLACE,
    st.binary(max_size=8) | INTERESTING,
)
MUTATIONS = st.lists(MUTATION, min_size=1, max_size=4)

VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 2**31, 2**63, 2**64, 10**30, "../x", "F8_E4M3", "I64", "w", ""])
    | st.floats()
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=5,
)


def applied(content: bytes, mutations) -> bytes:
    for change, at, more in mutations:
        content = change(content, at, more)
    return content


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small checkpoint a format, as the libraries save them."""
    root = tmp_path_factory.mktemp("genuine")
    g = torch.Generator().manual_seed(0)
    weights = {f"layers.{i}.w.weight": torch.randn(4, 6, generator=g) for i in range(2)}
    for name in ("whole", "shards", "pickled", "quantised"):
        (root / name).mkdir()
    save_file(weights, root / "whole" / "model.safetensors")
    mapping = {name: f"{i}.safetensors" for i, name in enumerate(weights)}
    for name, shard in mapping.items():
        save_file({name: weights[name]}, root / "shards" / shard)
    index = root / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    torch.save(weights, root / "pickled" / "pytorch_model.bin")
    eighths = {"w": weights["layers.0.w.weight"].to(torch.float8_e4m3fn)}
    save_file({**eighths, "w_scale_inv": torch.ones(2, 3)}, root / "quantised/model.safetensors")
    asked = {"quant_method": "fp8", "weight_block_size": [2, 2]}
    (root / "quantised" / "config.json").write_text(json.dumps({"quantization_config": asked}))
    distributed(root / "distributed", {"model": weights, "step": 3})
    return root


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail where one example takes too long, or has made the process too large."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"one example took {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < KILOBYTES


def survives(folder: Path, file: str, change: Change) -> None:
    """Read everything of a copy with one file changed; only our own errors may come out."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(folder, Path(place) / "copy"))
        (copy / file).write_bytes(change((copy / file).read_bytes()))
        with bounded():
            for reading in (read_everything, lambda path: inspect(path, pickle=True)):
                with contextlib.suppress(OffaxisError):
                    reading(copy)


def read_everything(path: Path) -> None:
    reader = open_checkpoint(path, EVERYTHING)
    for name, info in reader.tensors().items():
        assert reader.read(name).shape == info.shape
    reader.digest()


def in_archive(change: Change) -> Change:
    """A change of the pickle in an archive, whose sums are right again."""

    def changed(content: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as place:
            before, after = Path(place) / "before", Path(place) / "after"
            before.write_bytes(content)
            with zipfile.ZipFile(before) as old, zipfile.ZipFile(after, "w") as new:
                for record in old.namelist():
                    held = old.read(record)
                    new.writestr(record, change(held) if record.endswith("data.pkl") else held)
            return after.read_bytes()

    return changed


def in_header(change: Callable[[dict], dict]) -> Change:
    """A change of a safetensors header, whose length is right again."""

    def changed(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        text = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return changed


FILES = {
    "whole": "model.safetensors",
    "shards": "model.safetensors.index.json",
    "pickled": "pytorch_model.bin",
    "quantised": "config.json",
    "distributed": ".metadata",
    "payload": "__0_0.distcp",
}


def check_bytes(genuine: Path, kind: str, mutations) -> None:
    folder = genuine / ("distributed" if kind == "payload" else kind)
    survives(folder, FILES[kind], lambda content: applied(content, mutations))


def check_pickle(genuine: Path, mutations) -> None:
    change = in_archive(lambda content: applied(content, mutations))
    survives(genuine / "pickled", "pytorch_model.bin", change)


def check_header(genuine: Path, kind: str, key: str, value: object) -> None:
    def change(header: dict) -> dict:
        first = next(iter(header))
        if key in header[first]:
            return {**header, first: {**header[first], key: value}}
        return {**header, key: value}

    survives(genuine / kind, "model.safetensors", in_header(change))


def check_json(genuine: Path, kind: str, key: str, value: object) -> None:
    def change(content: bytes) -> bytes:
        held = json.loads(content)
        inner = next(v for v in held.values() if v)
        (inner if key in inner else held)[key] = value
        return json.dumps(held).encode()

    survives(genuine / kind, FILES[kind], change)


KIND = st.sampled_from(list(FILES))
HEADERS = {
    "kind": st.sampled_from(["whole", "quantised"]),
    "key": st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "w", "w_scale"]),
    "value": VALUE,
}
OBJECTS = {
    "kind": st.sampled_from(["shards", "quantised"]),
    "key": st.sampled_from(
        ["weight_map", "layers.0.w.weight", "quantization_config", "weight_block_size", "dtype"]
    ),
    "value": VALUE,
}


def test_the_genuine_ones_are_read(genuine: Path) -> None:
    for folder in genuine.iterdir():
        read_everything(folder)
        assert inspect(folder, pickle=True)["tensors"] >= 2


@given(kind=KIND, mutations=MUTATIONS)
def test_bytes(genuine: Path, kind: str, mutations) -> None:
    check_bytes(genuine, kind, mutations)


@given(mutations=MUTATIONS)
def test_pickles_in_archives(genuine: Path, mutations) -> None:
    check_pickle(genuine, mutations)


@given(**HEADERS)
@example(kind="whole", key="shape", value=[0, 2**62])
def test_headers(genuine: Path, kind: str, key: str, value: object) -> None:
    check_header(genuine, kind, key, value)


@given(**OBJECTS)
def test_indexes_and_configurations(genuine: Path, kind: str, key: str, value: object) -> None:
    check_json(genuine, kind, key, value)


@pytest.mark.parametrize("name", RAW)
def test_pickles_that_no_pickler_writes(genuine: Path, name: str) -> None:
    survives(genuine / "pickled", "pytorch_model.bin", in_archive(lambda _: RAW[name]))
    survives(genuine / "distributed", ".metadata", lambda _: RAW[name])


@pytest.mark.trials
def test_an_hour(genuine: Path) -> None:
    """The same, each time from other seeds."""
    once = settings(
        max_examples=500,
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    forms = (
        (check_bytes, {"kind": KIND, "mutations": MUTATIONS}),
        (check_pickle, {"mutations": MUTATIONS}),
        (check_header, HEADERS),
        (check_json, OBJECTS),
    )
    end = time.monotonic() + HOUR
    while time.monotonic() < end:
        for check, drawn in forms:
            once(given(genuine=st.just(genuine), **drawn)(check))()
