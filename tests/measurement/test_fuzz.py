"""Damaged input is refused with our error or measured; it never ends in another exception."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.errors import OffaxisError
from offaxis.measurement import Options
from offaxis.measurement.assemble import training_rows
from offaxis.measurement.options import passes
from offaxis.measurement.plan import make_plan
from offaxis.measurement.stream import run_task
from offaxis.runs import RunFolder
from offaxis.table import ResultsFolder

EVERYTHING = Options(passes=passes(["stored"], None), draws=2, edge_draws=1)
LITTLE = Options(passes=passes(["stored"], ["sparsity"]), draws=2, edge_draws=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with a manifest, a log, a whole and a sharded checkpoint."""
    root = tmp_path_factory.mktemp("fuzz") / "run"
    g = torch.Generator().manual_seed(0)
    weights = {f"layers.{i}.w.weight": torch.randn(4, 6, generator=g) for i in range(2)}
    for step in (0, 1, 2):
        (root / f"checkpoint-{step}").mkdir(parents=True)
        moved = {name: W + 0.01 * step for name, W in weights.items()}
        if step < 2:
            save_file(moved, root / f"checkpoint-{step}" / "model.safetensors")
            continue
        shards = {name: f"{i}.safetensors" for i, name in enumerate(moved)}
        for name, shard in shards.items():
            save_file({name: moved[name]}, root / "checkpoint-2" / shard)
        index = root / "checkpoint-2" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": shards}))
    RunFolder(root).write_manifest({"name": "run", "anchor": "checkpoint-0", "arm": "x"})
    (root / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    return root


def measured(root: Path, out: Path, options: Options = EVERYTHING) -> None:
    """Everything that measuring does with foreign bytes, in this process."""
    trajectories = find_trajectories([root])
    plan = make_plan(trajectories, ResultsFolder(out), options, str)
    for trajectory in trajectories:
        training_rows(trajectory)
    for task in plan.tasks:
        run_task(task)


def survives(healthy: Path, name: str, change) -> None:
    options = LITTLE if name in TEXT else EVERYTHING  # weights are those of the healthy run
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(healthy, Path(folder) / "run"))
        (root / name).write_bytes(change((root / name).read_bytes()))
        refusal: OffaxisError | None = None
        try:
            measured(root, Path(folder) / "out", options)
        except OffaxisError as error:
            refusal = error
        assert refusal is None or refusal.exit_code in (2, 3, 4)


BINARY = ["checkpoint-1/model.safetensors", "checkpoint-2/0.safetensors"]
TEXT = ["manifest.json", "log.jsonl", "checkpoint-2/model.safetensors.index.json"]


def test_the_healthy_run_is_measured(healthy: Path, tmp_path: Path) -> None:
    measured(healthy, tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


@given(name=st.sampled_from(BINARY + TEXT), at=st.floats(0, 1), byte=st.integers(0, 255))
def test_one_byte_changed(healthy: Path, name: str, at: float, byte: int) -> None:
    def change(content: bytes) -> bytes:
        place = min(int(at * len(content)), len(content) - 1)
        return content[:place] + bytes([byte]) + content[place + 1 :]

    survives(healthy, name, change)


@given(name=st.sampled_from(BINARY + TEXT), at=st.floats(0, 1), more=st.binary(max_size=20))
def test_cut_short_or_continued(healthy: Path, name: str, at: float, more: bytes) -> None:
    survives(healthy, name, lambda content: content[: int(at * len(content))] + more)


@given(
    name=st.sampled_from(TEXT),
    key=st.sampled_from(["anchor", "weight_map", "step", "x"]),
    value=JSON,
)
def test_json_of_another_shape(healthy: Path, name: str, key: str, value: object) -> None:
    def change(content: bytes) -> bytes:
        found = json.loads(content.splitlines()[0] if name.endswith("l") else content)
        return (json.dumps({**found, key: value}) + "\n").encode()

    survives(healthy, name, change)


@given(header=JSON)
def test_a_header_of_another_shape(healthy: Path, header: object) -> None:
    text = json.dumps(header).encode()
    survives(healthy, BINARY[0], lambda _: len(text).to_bytes(8, "little") + text + bytes(96))
