"""The verb: what it lists and costs, and a study that is killed, continued and the same."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tests.reproduction import micro

from offaxis.errors import UsageError
from offaxis.measurement import Options, Pass
from offaxis.reproduction import entries
from offaxis.reproduction.command import reproduce
from offaxis.reproduction.entries import ENTRIES
from offaxis.reproduction.measured import unmeasured
from offaxis.reproduction.study import gather
from offaxis.runs import RunFolder
from offaxis.table import ResultsFolder


@pytest.fixture(autouse=True)
def _own_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "ENTRIES", entries.ENTRIES)
    monkeypatch.setitem(entries.ENTRIES, "fig4", entries.ENTRIES["fig4"])


def rows(out: Path) -> list[dict]:
    return gather(out, "tiny", micro.CHANGES).to_pylist()


@pytest.fixture(scope="module")
def whole(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """An undisturbed study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(entries.ENTRIES, "fig4", micro.ENTRY)
        return once("micro-study", micro.study)


def killed(out: Path) -> None:
    """Begin a study in another process and kill it once its first model is whole."""
    process = subprocess.Popen(
        [sys.executable, micro.__file__, str(out)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(
            '"finished": true' in path.read_text() for path in out.glob("models/*/manifest.json")
        ):
            break
        time.sleep(0.05)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "study.parquet").exists()


def test_a_killed_study_goes_on_and_ends_in_the_same_table(whole: Path, tmp_path: Path) -> None:
    killed(tmp_path / "killed")
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "killed").glob("models/*/checkpoint-4/model.safetensors")
    }
    assert finished
    said = micro.study(tmp_path / "killed")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    found = rows(tmp_path / "killed")
    assert found == rows(whole)
    assert {(row["draw"], row["arm"]) for row in found} == {
        (draw, arm) for draw in (0, 1) for arm in ("sft", "opd")
    }
    assert said["rows"] == len(found)
    edited = {row["point"]: row for row in found if row["arm"] == "opd" and row["draw"] == 1}
    assert {"edit=top-1", "edit=spectrum", "edit=extrapolate-1"} < edited.keys()
    assert edited["edit=top-16-norm"]["null_name"] == "random directions"
    assert {verdict["figure"] for verdict in said["verdicts"]} == {"fig4"}
    assert {verdict["verdict"] for verdict in said["verdicts"]} == {"cannot tell at this scale"}
    # Only the teacher is to stop at an accuracy, which it cannot reach in four steps.
    assert [note.partition("-")[0] for note in said["notes"]] == ["teacher", "teacher"]


def test_only_what_a_draw_lacks_is_measured(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "study")
    results = ResultsFolder(out / "results/draw-0")
    runs = [RunFolder(out / "models" / run["name"]) for run in results.manifest()["runs"]]
    first, *others = runs
    as_measured = Options(passes=(Pass("stored", ("norm",)), Pass("bf16", ("norm",))), draws=2)
    assert not unmeasured(results, runs, as_measured)
    more = replace(as_measured, passes=(Pass("stored", ("norm", "rank")),))
    for other in (more, replace(as_measured, draws=5), replace(as_measured, seed=1)):
        assert unmeasured(results, runs, other) == runs
    assert unmeasured(ResultsFolder(tmp_path / "nowhere"), runs, as_measured) == runs

    part = results.part("readings", first.root.name)
    table = pq.read_table(part)
    pq.write_table(table.filter(pc.not_equal(table["step"], max(table["step"].to_pylist()))), part)
    assert unmeasured(results, runs, as_measured) == [first]
    older = pc.replace_substring_regex(table["definition"], "^v[0-9]+", "v0")
    pq.write_table(
        table.set_column(table.schema.get_field_index("definition"), "definition", older), part
    )
    assert unmeasured(results, runs, as_measured) == [first]
    part.unlink()
    assert unmeasured(results, runs, as_measured) == [first]

    held = {run: results.part("readings", run.root.name).stat().st_mtime_ns for run in others}
    micro.study(out)
    assert pq.read_table(part).equals(table)
    assert held == {
        run: results.part("readings", run.root.name).stat().st_mtime_ns for run in others
    }


def test_the_list_names_every_entry_and_what_it_costs(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    said = reproduce(["list"], out=tmp_path, workers=2, quick=True, console=console)
    assert [entry["id"] for entry in said["entries"]] == list(ENTRIES)
    text = console.file.getvalue()
    assert all(f"\n{name} " in text for name in ENTRIES)
    by_id = {entry["id"]: entry for entry in said["entries"]}
    assert by_id["tab3"]["runs"] == 0
    assert by_id["fig4"]["core_minutes"] > 1
    assert by_id["fig4"]["models"] > by_id["fig4"]["runs"] > 0
    assert said["all"]["core_minutes"] < sum(entry["core_minutes"] for entry in said["entries"])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_reproduced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean fig4"):
        reproduce(["fig44"], out=tmp_path)
    with pytest.raises(UsageError, match="tables of settings alone"):
        reproduce(["tab3"], out=tmp_path)
    with pytest.raises(UsageError, match="at least 1"):
        reproduce(["fig4"], out=tmp_path, workers=0)
