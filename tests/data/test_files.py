"""Files as records: splits that share no prompt, keyed order, columns, what is refused."""

import json

import pytest

from offaxis.data.columns import Columns, at, reference_of
from offaxis.data.files import FileRecords
from offaxis.errors import RecipeError

QA = Columns(prompt=("q",), completion="a", answer=("truth.value",))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def many(tmp_path):
    """Two hundred rows, every prompt five times."""
    rows = [{"q": f"q{i % 40}", "a": f"a{i}", "truth": {"value": i}} for i in range(200)]
    return jsonl(tmp_path / "many.jsonl", rows)


def test_an_epoch_holds_every_row_of_training_once(many):
    records = FileRecords([many], QA, held_out=0.2)
    n = 200 - records.num_problems
    first = [records.training(seed=0, index=i).item for i in range(n)]
    second = [records.training(seed=0, index=i).item for i in range(n, 2 * n)]
    assert sorted(first) == sorted(second) == sorted(set(first))
    assert first != second
    assert first != [records.training(seed=1, index=i).item for i in range(n)]
    again = FileRecords([many], QA, held_out=0.2)
    assert [again.training(seed=0, index=i).item for i in reversed(range(n))] == first[::-1]


def test_copies_of_a_prompt_are_never_on_both_sides(many):
    records = FileRecords([many], QA, held_out=0.2)
    n, m = 200 - records.num_problems, records.num_problems
    train = {records.training(seed=0, index=i).prompt for i in range(n)}
    held = {records.held_out(seed=0, index=i).prompt for i in range(m)}
    assert train.isdisjoint(held)
    assert len(train | held) == 40
    assert 0 < len(held) < 20


def test_another_attempt_moves_nothing_else(many):
    records = FileRecords([many], QA, held_out=0.2)
    other = [records.training(seed=0, index=3, attempt=k).item for k in range(1, 30)]
    assert len(set(other)) > 20
    assert other == [records.training(seed=0, index=3, attempt=k).item for k in range(1, 30)]


def test_evaluation_files_are_the_held_out_rows(many, tmp_path):
    path = jsonl(tmp_path / "eval.jsonl", [{"q": "e", "a": "b", "truth": {"value": "x"}}])
    records = FileRecords([many], QA, evaluation_files=[path], held_out=0.2)
    assert records.num_problems == 1
    held = records.held_out(seed=5, index=7)
    assert (held.prompt, held.completion, held.reference, held.item) == ("e", "b", "x", 200)
    provenance = records.provenance()
    assert provenance["training_rows"] == 200
    assert provenance["files"][0]["bytes"] > 0
    assert len(provenance["evaluation_files"][0]["sha256"]) == 64


def test_columns_are_paths_and_answers_texts(tmp_path):
    row = {"a": {"b": [{"c": 3.5}, None]}, "x": "", "y": "Y"}
    assert at(row, "a.b.0.c") == 3.5
    assert at(row, "a.b.7.c") is at(row, "a.z") is at(row, "x.y") is None
    assert reference_of(row, ("a.b.0.c",)) == "3.5"
    assert reference_of(row, ("nothing",)) == reference_of(row, ("x", "nothing")) == ""
    assert json.loads(reference_of(row, ("x", "y"))) == {"x": "", "y": "Y"}


def test_prompts_are_texts_chats_or_several_texts(tmp_path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = [{"p": "one", "q": None, "m": [*turns, {"role": "assistant", "content": "c"}]}]
    path = jsonl(tmp_path / "a.jsonl", rows)

    def record(**columns):
        return FileRecords([path], Columns(**columns), evaluation_files=[path]).record(0)

    assert record(prompt=("p", "q")).prompt == "one"
    assert record(messages="m")[:2] == (turns, "c")
    assert record(prompt=("m",), completion="p").prompt == rows[0]["m"]


@pytest.mark.parametrize(
    ("row", "columns", "where", "expected"),
    [
        ({"a": "x"}, {"prompt": ("q",)}, "line 1, q", "a text"),
        ({"q": ""}, {"prompt": ("q",)}, "line 1, q", "a text"),
        ({"q": 3}, {"prompt": ("q",)}, "line 1, q", "a text"),
        ({"q": "x"}, {"prompt": ("q",), "completion": "a"}, "line 1, a", "a text"),
        ({"q": [{"role": "user"}]}, {"prompt": ("q",)}, "line 1, q", "messages"),
        (
            {"m": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
            {"messages": "m"},
            "line 1, m",
            "ends with a turn of the assistant",
        ),
    ],
)
def test_a_row_without_what_it_should_hold_is_named(tmp_path, row, columns, where, expected):
    path = jsonl(tmp_path / "a.jsonl", [row])
    records = FileRecords([path], Columns(**columns), evaluation_files=[path])
    with pytest.raises(RecipeError) as caught:
        records.training(seed=0, index=0)
    assert where in caught.value.where
    assert expected in caught.value.expected


def test_a_missing_column_and_an_empty_side_are_refused(many, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": ["x"]}), path)
    with pytest.raises(RecipeError, match="the columns question"):
        FileRecords([str(path)], QA, held_out=0.5)
    with pytest.raises(RecipeError, match="rows of evaluation"):
        _ = FileRecords([many], QA, held_out=1e-9).num_problems
