"""Whatever is missing or wrong in a results folder: a page that says so, or one clear error."""

import copy
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import IN_TRIALS

from offaxis.cli import run
from offaxis.table import TABLES, ResultsFolder

WRONG = (None, 7, -0.5, True, "text", [], [3], [None], [{}], {}, {"odd": 1})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One small folder, copied for every damage."""
    from tests.report.conftest import PlantedArm, write_results

    arms = {"opd": PlantedArm(0.1, seeds=1, steps=9), "rlvr": PlantedArm(0.1, seeds=1, steps=9)}
    return write_results(tmp_path_factory.mktemp("small"), arms, roles=("q_proj",), count=2).root


@pytest.fixture
def broken(small, tmp_path):
    return ResultsFolder(shutil.copytree(small, tmp_path / "results"))


def reported(folder, capsys):
    """Run the verb: a page or a ResultsError, and never anything else."""
    code = run(["report", str(folder.root)])
    said = capsys.readouterr().err
    assert code in (0, 3), said
    assert "Traceback" not in said
    assert "internal error" not in said
    return code, said if code else (folder.root / "report.html").read_text("utf-8")


def places(held, path=()):
    """Yield the path of every value inside a document."""
    parts = held.items() if isinstance(held, dict) else enumerate(held)
    for key, part in parts:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def judged_places(manifest):
    """Return every place but those of the second run, which repeats the first."""
    return [path for path in places(manifest) if path[:2] != ("runs", 1)]


def replaced(manifest, path, *value):
    """Return a copy of a document with one value dropped or replaced."""
    made = copy.deepcopy(manifest)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if value:
        inner[path[-1]] = value[0]
    else:
        del inner[path[-1]]
    return made


def test_a_manifest_without_any_one_value(broken, capsys):
    manifest = json.loads(broken.manifest_path.read_text("utf-8"))
    for path in judged_places(manifest):
        broken.manifest_path.write_text(json.dumps(replaced(manifest, path)), "utf-8")
        reported(broken, capsys)


def test_a_manifest_with_any_one_value_of_a_wrong_type(broken, capsys):
    manifest = json.loads(broken.manifest_path.read_text("utf-8"))
    for index, path in enumerate(judged_places(manifest)):
        # Every place meets a wrong value, every wrong value several places; in trials all meet.
        for wrong in WRONG if IN_TRIALS else WRONG[index % len(WRONG) :: len(WRONG)]:
            broken.manifest_path.write_text(json.dumps(replaced(manifest, path, wrong)), "utf-8")
            reported(broken, capsys)


@pytest.mark.parametrize("runs", [..., None, [], [{}], [None], {}, "opd-s0", [{"name": 3}]])
def test_a_manifest_without_usable_runs_is_one_clear_error(broken, capsys, runs):
    manifest = json.loads(broken.manifest_path.read_text("utf-8"))
    manifest = replaced(manifest, ("runs",), *([] if runs is ... else [runs]))
    broken.manifest_path.write_text(json.dumps(manifest), "utf-8")
    code, said = reported(broken, capsys)
    assert code == 3
    assert "runs" in said


def test_a_run_named_twice_is_refused(broken, capsys):
    manifest = json.loads(broken.manifest_path.read_text("utf-8"))
    manifest["runs"].append(manifest["runs"][0])
    broken.manifest_path.write_text(json.dumps(manifest), "utf-8")
    assert reported(broken, capsys)[0] == 3


@pytest.mark.parametrize("table", ["readings", "spectra", "angles", "training"])
def test_a_missing_or_damaged_part(broken, capsys, table):
    part = broken.part(table, "opd-s0")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert reported(broken, capsys)[0] == 3
    part.write_bytes(b"")
    assert reported(broken, capsys)[0] == 3
    part.unlink()
    assert reported(broken, capsys)[0] == (0 if table == "training" else 3)


@pytest.mark.parametrize("table", ["readings", "spectra", "angles", "training"])
def test_empty_tables_give_a_page_that_says_what_is_missing(broken, capsys, table):
    for name in ("opd-s0", "rlvr-s0"):
        broken.write(table, name, [])
    code, page = reported(broken, capsys)
    assert code == 0
    said = {
        "readings": "The table holds no value of opd-s0, rlvr-s0",
        "training": "No training log came with these checkpoints",
    }
    assert said.get(table, "") in page


def test_values_that_are_all_null_give_a_page_that_says_so(broken, capsys):
    for name in ("opd-s0", "rlvr-s0"):
        rows = broken.read("readings", [name]).to_pylist()
        empty = {"value": None, "null_mean": None, "null_sd": None}
        broken.write("readings", name, [row | empty for row in rows])
    code, page = reported(broken, capsys)
    assert code == 0
    assert "The table holds no value of opd-s0, rlvr-s0" in page


@pytest.mark.parametrize("table", ["readings", "spectra", "angles", "training"])
def test_any_one_column_missing_or_null_or_of_another_type(broken, capsys, table):
    part = broken.part(table, "opd-s0")
    whole = pq.read_table(part)
    for index, column in enumerate(TABLES[table].names):
        kind = whole.schema.types[index]
        made = [whole.set_column(index, column, pa.nulls(whole.num_rows, kind))]
        if index % 4 == 0:  # a column that is not there reads as one of nulls
            made.append(whole.drop_columns([column]))
        if kind != pa.string():
            made.append(whole.set_column(index, column, pa.array(["odd"] * whole.num_rows)))
        for content in made if IN_TRIALS else made[index % len(made) :][:1]:
            pq.write_table(content, part)
            reported(broken, capsys)


def test_definitions_that_cannot_be_read_are_one_clear_error(broken, capsys):
    rows = broken.read("readings", ["opd-s0"]).to_pylist()
    broken.write("readings", "opd-s0", [row | {"definition": "v1;stored"} for row in rows])
    code, said = reported(broken, capsys)
    assert code == 3
    assert "definitions such as" in said
