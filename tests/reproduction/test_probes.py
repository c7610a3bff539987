"""Probes: what they make of planted runs, that answers are kept, what is said where one fails."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tests.measurement.test_compare import saved, touched
from tests.models import anchor_weights

from offaxis.errors import ResultsError
from offaxis.reproduction import probing
from offaxis.reproduction.costs import asking_minutes
from offaxis.reproduction.extract import STUDY
from offaxis.reproduction.probes import PROBES, Probe
from offaxis.reproduction.probes.edited import gains, point_of
from offaxis.reproduction.probing import Visit, visit_all, visits
from offaxis.runs import RunFolder

(ARMS,) = PROBES["agreement"].groups
QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def agreed(tmp_path_factory):
    """Rows of runs of which the first two change the same weights, and the others others."""
    root, start = tmp_path_factory.mktemp("runs"), anchor_weights()
    names = sorted(f"run-{i}" for i in range(len(ARMS)))[::-1]  # against the order of the arms
    runs = {
        arm: RunFolder(saved(root / name, touched(start, 0.3, seed)))
        for arm, name, seed in zip(ARMS, names, (1, 1, 2, 3, 4), strict=True)
    }
    return PROBES["agreement"].ask(runs, root)


def test_agreement_is_given_of_each_two_runs_beside_the_gate_and_chance(agreed):
    found = {
        (row["arm"], row["quantity"], row["null_name"]): row
        for row in agreed
        if row["matrices"] == "linear"
    }
    assert {arm for arm, *_ in found} == {*PROBES["agreement"].gives}
    for null in ("stratified", "chance"):
        assert found["sft-and-opd", "jaccard", null]["value"] == 1
        assert found["opd-in-sft", "coverage", null]["value"] == 1
        apart = found["opd-and-rlvr", "jaccard", null]
        assert apart["value"] == pytest.approx(apart["null"], abs=0.05)
        assert apart["null"] == pytest.approx(0.3 / 1.7, abs=0.05)
    times = [
        row["value"]
        for (arm, _, null), row in found.items()
        if arm == "all-runs" and null == "chance"
    ]
    assert len(times) == len(ARMS) + 1
    assert sum(times) == pytest.approx(1)


def test_energy_shares_of_both_kinds_add_up_beside_those_of_the_weights(agreed):
    for arm in ARMS:
        own = [row for row in agreed if (row["arm"], row["quantity"]) == (arm, "energy_share")]
        assert {row["matrices"] for row in own} == {"attention", "mlp"}
        assert sum(row["value"] for row in own) == pytest.approx(1)
        assert sum(row["null"] for row in own) == pytest.approx(1)


def test_of_a_gain_the_share_that_is_left_is_taken():
    values = {("", "accuracy"): 0.6, ("top=1", "accuracy"): 0.5, ("top=1", "forward_kl_nats"): 1.0}
    assert gains(values, 0.4) == pytest.approx({("", "gain_kept"): 1, ("top=1", "gain_kept"): 0.5})
    assert gains(values, 0.6) == {}
    assert point_of("top=16,norm") == "edit=top-16-norm"


def probe(version: int = 1) -> Probe:
    row = {"arm": "opd", "quantity": "norm", "value": 2.0}
    return Probe("fake", version, (("opd", "sft"), ("opd",)), (), lambda *_: [row], seconds=90.0)


def test_an_answer_is_kept_under_its_runs_and_the_version_of_its_probe(tmp_path, monkeypatch):
    monkeypatch.setitem(PROBES, "fake", probe())
    runs = {"opd": RunFolder(tmp_path / "opd-12")}
    (visit,) = visits(["fake"], 3, runs, tmp_path)  # the group that lacks SFT is left out
    assert not visit.is_kept
    assert asking_minutes(["fake"], {3: runs}, tmp_path) == 1.5
    probing.ask(visit)
    assert visit.is_kept
    assert asking_minutes(["fake"], {3: runs}, tmp_path) == 0
    table = visit.answer()
    assert table.schema == STUDY
    (row,) = table.to_pylist()
    assert (row["draw"], row["arm"], row["value"], row["null"]) == (3, "opd", 2.0, None)
    (other,) = visits(["fake"], 3, {"opd": RunFolder(tmp_path / "opd-13")}, tmp_path)
    assert not other.is_kept
    monkeypatch.setitem(PROBES, "fake", probe(version=2))
    assert not visit.is_kept


def test_a_damaged_answer_is_refused_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setitem(PROBES, "fake", probe())
    visit = Visit("fake", 0, {"opd": RunFolder(tmp_path / "opd-12")}, tmp_path)
    probing.ask(visit)
    visit.path.write_bytes(visit.path.read_bytes()[:40])
    with pytest.raises(ResultsError, match=visit.path.name):
        visit.answer()
    pq.write_table(STUDY.empty_table().drop_columns(["value"]), visit.path)
    with pytest.raises(ResultsError, match="value"):
        visit.answer()


def test_a_probe_that_fails_is_noted_and_what_is_kept_is_not_asked(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(PROBES, "fake", probe())
    kept = Visit("fake", 0, {"opd": RunFolder(tmp_path / "opd-12")}, tmp_path)
    probing.ask(kept)
    (tmp_path / "opd-13").mkdir()
    lost = Visit("mechanism", 0, {"opd": RunFolder(tmp_path / "opd-13")}, tmp_path)
    failures = {}
    visit_all([kept, lost], 1, QUIET, failures)
    assert list(failures) == ["mechanism of opd-13"]
    assert not lost.is_kept
