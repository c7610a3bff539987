"""Probes in a study: what they give, that answers are kept, and what is said where one fails."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.reproduction import micro

from offaxis.errors import ResultsError
from offaxis.reproduction import entries
from offaxis.reproduction.command import reproduce
from offaxis.reproduction.probes import PROBES
from offaxis.reproduction.probes.edited import gains, point_of
from offaxis.reproduction.probing import Visit, visit_all
from offaxis.reproduction.study import gather
from offaxis.runs import RunFolder

SMALL = ("data.prompts=2", "rollouts.per_prompt=2")
CHANGES = micro.CHANGES | dict.fromkeys(("rlvr", "rlvr-again", "rlvr-random"), SMALL)
ARMS = ("sft", "opd", "rlvr", "rlvr-again", "rlvr-random")
ENTRY = entries.Entry(
    "fig4", "Micro", ("norm",), further=dict.fromkeys(ARMS, 1), probes=("agreement", "edited")
)


def study(out: Path, **how: bool) -> dict:
    quiet = Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(entries.ENTRIES, "fig4", ENTRY)
        return reproduce(["fig4"], out=out, workers=2, changes=CHANGES, console=quiet, **how)


def kept(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("probes/draw-0/*.parquet")}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    said = study(out)
    assert not said["failed"]
    return out


@pytest.fixture(scope="module")
def rows(done):
    return gather(done, "tiny", CHANGES).to_pylist()


def test_agreement_is_given_of_each_two_runs_beside_the_gate_and_chance(rows):
    found = [row for row in rows if row["quantity"] == "jaccard" and row["matrices"] == "linear"]
    pairs = {arm for arm in PROBES["agreement"].gives if "-and-" in arm}
    # In so few steps both may have met no reward: of two that changed nothing nothing agrees.
    assert {row["arm"] for row in found} | {"rlvr-and-rlvr-again"} == pairs
    assert {row["null_name"] for row in found if row["arm"] == "opd-and-rlvr"} == {
        "stratified",
        "chance",
    }
    assert all(0 <= row["value"] <= 1 for row in found)
    times = {
        row["quantity"]: row["value"]
        for row in rows
        if row["arm"] == "all-runs" and row["matrices"] == "mlp"
    }
    assert len(times) == len(ARMS) + 1
    assert sum(times.values()) == pytest.approx(1)


def test_energy_shares_of_both_kinds_add_up_beside_those_of_the_weights(rows):
    for arm in ARMS:
        own = [row for row in rows if row["quantity"] == "energy_share" and row["arm"] == arm]
        assert {row["matrices"] for row in own} == {"attention", "mlp"}
        assert sum(row["value"] for row in own) == pytest.approx(1)
        # one layer of width 16: q and o of 16 x 16, k and v of 8 x 16; three of 32 x 16
        assert {row["matrices"]: row["null"] for row in own} == pytest.approx(
            {"attention": 768 / 2304, "mlp": 1536 / 2304}
        )


def test_edited_ends_are_points_beside_random_directions(rows):
    found = {
        (row["arm"], row["point"], row["quantity"]): row
        for row in rows
        if row["point"].startswith("edit=")
    }
    assert {arm for arm, _, _ in found} == {"opd", "sft", "rlvr"}
    points = {point for _, point, _ in found}
    assert {"edit=top-1", "edit=top-16-norm", "edit=spectrum", "edit=scale-0.5"} < points
    # sixteen directions are all that these matrices have, so that nothing of them is cut off
    whole = [row for row in rows if (row["arm"], row["point"]) == ("opd", "end")]
    kl = {row["quantity"]: row["value"] for row in whole}["forward_kl_nats"]
    cut = found["opd", "edit=top-16", "forward_kl_nats"]
    assert cut["value"] == pytest.approx(kl, rel=1e-3)
    assert cut["null"] != pytest.approx(kl, rel=1e-3)
    assert cut["null_name"] == "random directions"


def test_the_arms_of_all_rows_are_those_that_a_probe_says(rows, done):
    said = {arm for name in ENTRY.probes for arm in PROBES[name].gives}
    assert {row["arm"] for row in rows} == {*ARMS, *said}


def test_of_a_gain_the_share_that_is_left_is_taken():
    values = {("", "accuracy"): 0.6, ("top=1", "accuracy"): 0.5, ("top=1", "forward_kl_nats"): 1.0}
    assert gains(values, 0.4) == pytest.approx({("", "gain_kept"): 1, ("top=1", "gain_kept"): 0.5})
    assert gains(values, 0.6) == {}
    assert point_of("top=16,norm") == "edit=top-16-norm"


def test_answers_are_kept_and_one_that_is_gone_is_asked_for_again(done, rows):
    before = kept(done)
    assert len(before) == 4
    cost = study(done, dry_run=True)["all"]["core_minutes"]
    lost = next(path for path in before if path.name.startswith("edited"))
    lost.unlink()
    assert study(done, dry_run=True)["all"]["core_minutes"] == pytest.approx(
        cost + PROBES["edited"].seconds / 60
    )
    study(done)
    assert {path: time for path, time in kept(done).items() if path != lost} == {
        path: time for path, time in before.items() if path != lost
    }
    assert gather(done, "tiny", CHANGES).to_pylist() == rows


def test_a_damaged_answer_is_refused_with_its_place(done):
    path = min(kept(done))
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(ResultsError, match=path.name):
        gather(done, "tiny", CHANGES)
    path.write_bytes(whole)


def test_a_probe_that_fails_is_noted_and_the_others_are_asked(tmp_path):
    (tmp_path / "empty").mkdir()
    visit = Visit("mechanism", 0, {"opd": RunFolder(tmp_path / "empty")}, tmp_path)
    failures = {}
    visit_all([visit], 1, Console(file=io.StringIO()), failures)
    assert list(failures) == ["mechanism of empty"]
    assert not visit.is_kept
