"""The map over layers and roles, and the words beside numbers."""

import re
from pathlib import Path

import pytest

from offaxis import diagnostics, measurement
from offaxis.report import atlas
from offaxis.report.study import load_study
from offaxis.report.words import FLAG_WORDS, NULL_WORDS, null_sentence

# A flag stands in a tuple of its own, after others, or as the last thing asked for.
FLAG_IN_CODE = re.compile(
    r"""\("(\w+)",\)|flags, "(\w+)"|undefined\(\w+, "(\w+)"|return "(\w+)"|else "(\w+)\""""
)
DOCS = Path(__file__).parents[2] / "docs" / "results.md"


def with_experts(folder, run, *, null):
    """Turn the matrices of a run into pairs of experts, 1 above and 1 below."""
    rows = []
    for row in folder.read("readings", [run]).to_pylist():
        for index, add in enumerate((1.0, -1.0)):
            if row["value"] is not None:
                expert = row | {"view": f"expert.{index}", "value": row["value"] + add}
                rows.append(expert if null or index else expert | {"null_mean": None})
    folder.write("readings", run, rows)


@pytest.mark.parametrize("null", [True, False])
def test_experts_of_one_layer_and_role_share_a_cell(results, tmp_path, planted_arm, null):
    folder = results(tmp_path, {"opd": planted_arm(0.1, seeds=2, steps=9)}, layers=2, count=3)
    plain = {(r["quantity"], r["layer"], r["role"]): r for r in atlas.map_rows(load_study(folder))}
    with_experts(folder, "opd-s0", null=null)
    with_experts(folder, "opd-s1", null=null)
    cells = atlas.map_rows(load_study(folder))
    assert len(cells) == len(plain)
    for cell in cells:
        before = plain[cell["quantity"], cell["layer"], cell["role"]]
        assert cell["value"] == pytest.approx(before["value"])
        assert cell["tensor"] == f"{before['tensor']} [expert.0] and 1 more, averaged"
        # A null over half of the experts is not the null of their average.
        assert cell["null"] == (pytest.approx(before["null"]) if null else None)


def test_every_flag_of_the_schema_has_words():
    text = DOCS.read_text("utf-8")
    flags = set(re.findall(r"(?:flag|carries) `(\w+)`", text))
    assert len(flags) >= 9
    assert flags <= set(FLAG_WORDS)


def test_every_flag_of_the_code_has_words():
    source = Path(diagnostics.__file__).parent
    over_time = Path(measurement.__file__).parent / "over_time.py"
    flags = set()
    for path in (*source.glob("*.py"), over_time):
        for line in path.read_text("utf-8").splitlines():
            if not re.search(r"primary|ensembles|needs=", line):
                flags.update(filter(None, (f for m in FLAG_IN_CODE.findall(line) for f in m)))
    flags -= {*NULL_WORDS, "rad", "exact", "fast"}  # units and tiers look alike
    assert {"gate_per_step", "masters_unknown", "zero_update", "hidden_update", "vector"} <= flags
    assert flags <= set(FLAG_WORDS)


def test_every_primary_null_of_the_schema_has_words():
    table = DOCS.read_text("utf-8").split("## What each null keeps")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) - {"marchenko_pastur"}
    assert named <= set(NULL_WORDS)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), ""),
        (("none",), "No null is available here."),
        (("chance",), "Null: a random subspace or mask of the same size."),
        (
            ("chance", "none"),
            "Null: a random subspace or mask of the same size. Some readings have none.",
        ),
    ],
)
def test_a_missing_null_is_said_in_words(names, said):
    assert null_sentence(names) == said
