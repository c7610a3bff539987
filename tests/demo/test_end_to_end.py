"""The main job as a user runs it, `offaxis demo --preset smoke`: interrupted once, begun again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from offaxis.table import TABLES, ResultsFolder

ARMS = {"sft-base", "sft", "opd", "rlvr", "rlvr-random", "rlvr-long"}
ALONE = """
import sys
from pathlib import Path
from offaxis.demo import PRESETS, demo_recipes
from offaxis.measurement import measure_runs
from offaxis.training import train

name, out = sys.argv[1], Path(sys.argv[2])
[recipe] = (r for r in demo_recipes(PRESETS["smoke"]) if r.run_name == name)
measure_runs([train(recipe, out).root], out / "results", study={}, workers=1)
"""
CONTROLS = {"opd-k16-early", "opd-k16-random"}


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "offaxis", "demo", str(out), "--preset", "smoke", "--json"]


def manifests(out: Path, kind: str) -> dict[Path, dict]:
    return {path: json.loads(path.read_text()) for path in out.glob(f"{kind}/*/manifest.json")}


def interrupt(out: Path) -> None:
    """Begin a demo, and end it by Ctrl-C while runs are being trained."""
    process = subprocess.Popen(
        command(out),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # a suite in a shell's background ignores Ctrl-C, and so would all that it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 900  # on a machine that does much else
    while not list(out.glob("runs/*/checkpoint-7")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in said


def go_on(out: Path) -> dict:
    """What the same command says when it has gone on to the end; finished models stay."""
    held = {
        path: path.stat().st_mtime_ns
        for path, m in manifests(out, "models").items()
        if m["finished"]
    }
    assert held
    done = subprocess.run(command(out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in held} == held
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first(once: Callable[[str, Callable[[Path], None]], Path]) -> dict:
    """What a demo says that was ended in the middle of a run, `unfinished`, and has gone on."""

    def fill(folder: Path) -> None:
        interrupt(folder / "demo")
        runs = manifests(folder / "demo", "runs").items()
        unfinished = min(path.parent.name for path, m in runs if not m["finished"])
        said = go_on(folder / "demo") | {"unfinished": unfinished}
        (folder / "said.json").write_text(json.dumps(said), "utf-8")

    return json.loads((once("demo-smoke", fill) / "said.json").read_text("utf-8"))


def tables(results: ResultsFolder, run: str) -> dict[str, bytes]:
    """What two equal runs share: training logs hold seconds, which differ."""
    return {name: results.part(name, run).read_bytes() for name in set(TABLES) - {"training"}}


def test_every_arm_is_trained_measured_and_shown(first: dict) -> None:
    results = ResultsFolder(Path(first["results"]))
    manifest = results.manifest()
    assert {run["arm"] for run in manifest["runs"]} == ARMS | CONTROLS
    assert manifest["study"]["preset"] == "smoke"
    page = Path(first["report"]).read_text("utf-8")
    assert "far too few steps to learn" in page
    assert len(page) < 2_000_000
    readings = results.read("readings").to_pylist()
    assert {row["master_precision"] for row in readings} == {"float32"}
    alone = [r for r in readings if r["value"] is not None and r["null_mean"] is None]
    # Of what did not move at all (an embedding frozen beside a subspace) chance says nothing.
    assert all("zero_update" in row["flags"] for row in alone)
    assert "OPD inside its early subspace" in page
    by_arm = {run["arm"]: run["anchor"] for run in manifest["runs"] if run["arm"] in ARMS}
    shared = {anchor for arm, anchor in by_arm.items() if arm != "sft-base"}
    assert len(shared) == 1
    assert by_arm["sft-base"] not in shared


def test_every_checkpoint_is_a_hugging_face_model(first: dict) -> None:
    for run in first["runs"]:
        checkpoints = sorted(Path(run).glob("checkpoint-*"))
        assert len(checkpoints) >= 4
        model = AutoModelForCausalLM.from_pretrained(checkpoints[-1])
        assert model.config.model_type == "qwen3"


def test_equal_seeds_give_equal_readings_bit_for_bit(first: dict, tmp_path: Path) -> None:
    """The run that was interrupted, trained and measured again: alone, and in one go."""
    unfinished = first["unfinished"]
    subprocess.run([sys.executable, "-c", ALONE, unfinished, str(tmp_path)], check=True)
    again = ResultsFolder(tmp_path / "results")
    assert tables(again, unfinished) == tables(ResultsFolder(Path(first["results"])), unfinished)
