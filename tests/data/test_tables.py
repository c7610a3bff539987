"""Tables on disk: every format gives the same rows, and what is no table is named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offaxis.data.tables import open_table
from offaxis.errors import RecipeError

ROWS = [{"q": f"question {i}", "deep": {"truth": [str(i), i]}, "unread": i} for i in range(2500)]
KEPT = [{key: row[key] for key in ("q", "deep")} for row in ROWS]


def write(folder, kind):
    path = folder / f"rows.{kind}"
    if kind == "jsonl":  # a blank line, and no newline at the end
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
        return path
    texts = [{**row, "deep": {"truth": [str(x) for x in row["deep"]["truth"]]}} for row in ROWS]
    table = pa.Table.from_pylist(texts)
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=700)
    else:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset(table).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "datasets"])
def test_every_format_gives_the_same_rows_in_any_order(tmp_path, kind):
    table = open_table(write(tmp_path, kind), ["q", "deep"])
    assert len(table) == len(ROWS)
    for number in (2499, 0, 1024, 1):
        row = table.row(number)
        assert row["q"] == KEPT[number]["q"]
        assert [str(x) for x in row["deep"]["truth"]] == [str(number)] * 2
    assert str(tmp_path) in table.place(3)
    if kind == "jsonl":
        assert table.place(3).endswith("line 7")  # counted as an editor does
    else:
        assert set(table.columns) == {"q", "deep", "unread"}
        assert set(table.row(0)) == {"q", "deep"}


def test_parquet_is_mapped_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = write(tmp_path, "parquet")
    before = pa.total_allocated_bytes()
    table = open_table(path, ["q", "deep"])
    # The rows are in the mapped file, not in Arrow's memory.
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 4
    assert table.row(17)["q"] == "question 17"
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.csv", "q,a", "the ending '.csv'"),
        ("a.jsonl", "", "an empty file"),
        ("a.parquet", "PAR1 is how it begins", "Parquet"),
        ("a.arrow.d/x", "", "did not save"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, found):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(RecipeError, match=found):
        open_table(path if "/" not in name else path.parent, [])


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": 1}\n{"q": \n[1]\n')
    table = open_table(path, ["q"])
    assert table.row(0) == {"q": 1}
    for number, line in ((1, 2), (2, 3)):
        with pytest.raises(RecipeError, match=rf"a\.jsonl, line {line}"):
            table.row(number)
    with pytest.raises(RecipeError, match="no such file"):
        open_table(tmp_path / "b.jsonl", [])
