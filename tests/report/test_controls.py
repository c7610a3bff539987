"""Controls stand beside the run without them, in tables of their own, and nowhere else."""

import pytest
from tests.report.conftest import PlantedArm, write_results

from offaxis.report.controls import control_tables
from offaxis.report.page import render
from offaxis.report.study import load_study

ARMS = {
    "opd": PlantedArm(0.017, accuracy=0.7),
    "opd-early": PlantedArm(0.010, seeds=1, accuracy=0.5),
    "opd-random": PlantedArm(0.010, seeds=1, accuracy=0.4),
}
GROUP = {
    "title": "Inside the early subspace",
    "lead": "Sixteen directions.",
    "free": "opd",
    "arms": ["opd-early", "opd-random", "opd-absent"],
}


def study_of(folder, *groups):
    manifest = folder.manifest()
    manifest["study"] |= {"controls": list(groups), "labels": {"opd-early": "early, K = 16"}}
    folder.write_manifest({key: manifest[key] for key in manifest if key != "version"})
    return load_study(folder)


@pytest.fixture
def folder(tmp_path):
    return write_results(tmp_path, ARMS)


def test_a_control_is_a_row_below_the_free_run_with_the_share_of_its_gain(folder):
    study = study_of(folder, GROUP)
    [item] = control_tables(study)
    assert [row[0] for row in item.table.rows] == ["OPD", "early, K = 16", "opd-random"]
    start = study.accuracy("opd-early-s0")[1][0]
    early = study.accuracy("opd-early-s0")[1][-1]
    frees = [study.accuracy(f"opd-s{seed}")[1][-1] for seed in range(3)]
    kept = 100 * (early - start) / (sum(frees) / 3 - start)
    shown = float(item.table.rows[1][3].removesuffix("\u202f%"))
    assert shown == pytest.approx(kept, rel=5e-3)
    assert 0 < shown < 100
    assert item.table.rows[0][3] == "\u2013"
    assert [row[1] for row in item.table.rows] == ["3", "1", "1"]


def test_controls_are_not_drawn_among_the_arms(folder):
    study = study_of(folder, GROUP)
    assert [arm.key for arm in study.arms] == ["opd"]
    page = render(folder)
    assert "Inside the early subspace" in page
    assert "Under changed conditions" in page


def test_without_controls_the_chapter_is_left_out(folder):
    study = study_of(folder, {**GROUP, "arms": ["opd-absent"]})
    assert control_tables(study) == []
    assert "Under changed conditions" not in render(folder)
