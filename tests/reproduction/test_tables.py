import json
import re
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from tests.reproduction import simulation

from offaxis.report.quantities import MISSING
from offaxis.reproduction import tables
from offaxis.reproduction.verdicts import evaluate


@pytest.fixture(scope="module")
def verdicts(declared):
    asked = simulation.every(declared)
    return evaluate(
        declared, simulation.solved(asked, simulation.inside, 8, np.random.default_rng(0))
    )


@pytest.fixture(scope="module")
def nothing(declared):
    return evaluate(declared, simulation.table({min(declared.cells()): [0.5]}, {}))


def test_a_row_has_claim_published_ours_null_verdict_and_what_decided(verdicts):
    row = dict(zip(tables.CLAIMS_HEAD, tables.claim_rows(verdicts)[0], strict=True))
    assert row["claim"].endswith("(tab1)")
    assert row["published"] == "8.1 %, 51.6 %, 77.2 % (Table 1)"
    assert "rlvr" in row["ours [interval]"]
    assert row["ours [interval]"].endswith("]; 8 draws")
    assert row["verdict"] == "holds"
    assert row["decided by"] == "all 5 controls hold"


def test_numbers_are_in_the_unit_of_reading(verdicts):
    findings = {f.comparison.quantity: f for v in verdicts for f in v.findings}
    assert tables.shown(0.0312, findings["sparsity"]) == "3.12 %"
    assert tables.shown(1.5, findings["max_angle_right"]).endswith("1.50")
    harms = next(verdict for verdict in verdicts if verdict.claim.id == "rank16-harms-sft")
    assert tables.region(harms.findings[1]) == "below \u221210.0 %"
    assert "°" in tables.arm_means(verdicts[1])


def test_what_was_not_run_says_so(nothing):
    for row in tables.claim_rows(nothing):
        assert row[4] == "cannot tell at this scale"
        assert row[2] == MISSING
    assert any("not run: " in row[5] for row in tables.claim_rows(nothing))


def test_an_open_answer_says_what_could_have_been_seen(declared):
    rng = np.random.default_rng(0)
    open_ones = [
        row[5]
        for row in tables.claim_rows(evaluate(declared, simulation.exchanged(declared, 8, rng)))
        if row[4] == "cannot tell at this scale"
    ]
    assert open_ones
    assert all("could have been seen" in text for text in open_ones)


def test_markdown_has_as_many_columns_in_every_line(verdicts, nothing):
    for found in (verdicts, nothing):
        lines = tables.markdown(found).split("\n\n")[0].splitlines()
        assert len(lines) == 2 + len(found)
        assert {line.replace("\\|", "").count("|") for line in lines} == {7}
    assert "99.83 %" in tables.markdown(verdicts)
    detail = tables.findings_markdown(verdicts[0])
    assert len(detail.splitlines()) == 2 + 2 + len(verdicts[0].findings)


def test_the_terminal_shows_names_as_they_are(verdicts):
    console = Console(width=80, record=True, file=StringIO())
    console.print(tables.terminal_table(verdicts))
    text = console.export_text()
    assert "holds" in text
    assert "[" in text
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(re.sub(r"[│┃]", " ", text).split())
    for verdict in verdicts:
        assert f"{verdict.claim.sentence} ({verdict.claim.figure})" in words


def test_records_are_json(verdicts, nothing):
    for found in (verdicts, nothing):
        read = json.loads(json.dumps(tables.as_records(found), allow_nan=False))
        assert len(read) == len(found)
        assert read[0]["findings"][0]["contrast"] == found[0].findings[0].contrast
    assert tables.note([]) == "No claim was judged."
