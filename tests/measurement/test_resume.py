"""What was finished is kept, and the same work gives the same bytes."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.cli import run
from offaxis.errors import CheckpointError, ResultsError
from offaxis.measurement import Options, beside, measure
from offaxis.measurement.options import passes
from offaxis.table import TABLES, ResultsFolder
from tests import models
from tests.measurement import conftest
from tests.models import Weights, moved, save

# The smallest that has all there is to keep: a few draws, two matrices, a vector.
OPTIONS = replace(conftest.OPTIONS, draws=2, edge_draws=1)
TENSORS = {
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.norm.weight",
}


def anchor_weights(seed: int = 0) -> Weights:
    return {name: W for name, W in models.anchor_weights(seed).items() if name in TENSORS}


def save_run(path: Path, sizes: dict[int, float]) -> Path:
    return models.save_run(path, sizes, anchor=anchor_weights())


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "tiny", {1: 1e-4, 5: 3e-3, 20: 3e-2})


@pytest.fixture(scope="module")
def results(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    return again(run_folder, tmp_path_factory.mktemp("results"))


def tables(results: ResultsFolder) -> dict[str, bytes]:
    """Every Parquet file's bytes, by its place."""
    return {
        f"{name}/{path.name}": path.read_bytes()
        for name in TABLES
        for path in sorted((results.root / name).glob("*.parquet"))
    }


def stamps(results: ResultsFolder) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in results.root.rglob("*.safetensors")}


def again(run_folder: Path, out: Path, options: Options = OPTIONS) -> ResultsFolder:
    return measure(find_trajectories([run_folder]), out, options, workers=1)


def test_a_second_run_makes_nothing_and_changes_nothing(
    run_folder: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(results.root, tmp_path / "copy"))
    before = stamps(ResultsFolder(out))
    second = again(run_folder, out)
    assert stamps(second) == before
    assert tables(second) == tables(results)


def test_the_number_of_workers_changes_nothing(
    run_folder: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    found = measure(find_trajectories([run_folder]), tmp_path, OPTIONS, workers=2)
    assert tables(found) == tables(results)


def test_damaged_and_missing_units_are_made_again(
    run_folder: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    copy = ResultsFolder(Path(shutil.copytree(results.root, tmp_path / "copy")))
    first, second, *rest = sorted(copy.root.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:200])
    second.unlink()
    kept = {path: path.stat().st_mtime_ns for path in rest}
    found = again(run_folder, copy.root)
    assert {path: path.stat().st_mtime_ns for path in rest} == kept
    assert tables(found) == tables(results)


def test_appending_a_checkpoint_keeps_finished_units(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {1: 1e-3, 2: 2e-3})
    first = again(run, tmp_path / "out")
    before = stamps(first)
    save(run / "checkpoint-4", moved(anchor_weights(), 4e-3))
    second = again(run, tmp_path / "out")
    assert {p: t for p, t in stamps(second).items() if p in before} == before
    assert second.manifest()["runs"][0]["steps"] == [1, 2, 4]
    assert tables(second) == tables(again(run, tmp_path / "fresh"))


def test_more_diagnostics_later_give_the_whole_table(
    run_folder: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    few = replace(OPTIONS, passes=passes(["stored"], ["rank", "sparsity"]))
    again(run_folder, tmp_path, few)
    assert tables(again(run_folder, tmp_path)) == tables(results)


def test_fewer_diagnostics_later_lose_nothing(
    run_folder: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(results.root, tmp_path / "copy"))
    few = replace(OPTIONS, passes=passes(["stored"], ["rank"]))
    assert tables(again(run_folder, out, few)) == tables(results)


KEY = ("run", "step", "tensor", "view", "diagnostic", "quantity", "definition")


def by_key(results: ResultsFolder, name: str, *more: str) -> dict[tuple, dict]:
    """The rows of a table, none of which may share its key with another."""
    rows = results.read(name).to_pylist()
    found = {tuple(row[column] for column in (*KEY, *more)): row for row in rows}
    assert len(found) == len(rows)
    return found


def both(results: ResultsFolder) -> list[dict[tuple, dict]]:
    return [by_key(results, "readings"), by_key(results, "nulls", "null")]


def by_command(folder: Path, out: Path, *more: str) -> ResultsFolder:
    assert (
        run(["measure", str(folder), "--out", str(out), "--workers", "1", "--draws", "2", *more])
        == 0
    )
    return ResultsFolder(out)


@pytest.mark.parametrize("tier", ["exact", pytest.param("fast", marks=pytest.mark.trials)])
def test_other_settings_stand_beside_those_measured_before(
    run_folder: Path, tmp_path: Path, tier: str
) -> None:
    def again(*settings: str) -> ResultsFolder:
        return by_command(run_folder, tmp_path / "out", "--tier", tier, *settings)

    first = both(again())
    second = both(again("--set", "masks.alpha=0.5"))
    for before, after in zip(first, second, strict=True):
        assert after | before == after  # what was there is there to the last bit
        new = after.keys() - before.keys()
        assert {(key[4], "alpha=0.5" in key[6]) for key in new} == {("masks", True)}
    masks = [key for key in first[0] if key[4] == "masks"]
    assert len(second[0]) == len(first[0]) + len(masks)
    whole, made = tables(ResultsFolder(tmp_path / "out")), stamps(ResultsFolder(tmp_path / "out"))
    for settings in ([], ["--set", "masks.alpha=0.5"]):
        found = again(*settings)
        assert stamps(found) == made
        assert tables(found) == whole
    alone = by_command(run_folder, tmp_path / "alone", "--tier", tier, "--set", "masks.alpha=0.5")
    assert {key: second[0][key] for key in both(alone)[0]} == both(alone)[0]


def test_the_order_of_settings_leaves_no_trace(run_folder: Path, tmp_path: Path) -> None:
    few = ["--diagnostics", "masks", "--diagnostics", "sparsity"]
    orders = {"up": ("0.3", "0.5"), "down": ("0.5", "0.3")}
    for name, alphas in orders.items():
        for alpha in alphas:
            by_command(run_folder, tmp_path / name, *few, "--set", f"masks.alpha={alpha}")
    assert tables(ResultsFolder(tmp_path / "up")) == tables(ResultsFolder(tmp_path / "down"))


def test_other_ranks_and_other_angles(run_folder: Path, tmp_path: Path) -> None:
    """Similarity is compared at every K that was asked for; curves are those of the last k."""
    first = both(by_command(run_folder, tmp_path / "out"))
    settings = ["--set", "similarity.K=[2]", "--set", "rotation.k=3"]
    second = both(by_command(run_folder, tmp_path / "out", *settings))
    assert second[0] | first[0] == second[0]
    new = second[0].keys() - first[0].keys()
    assert {(key[4], key[6].split(";")[1]) for key in new} == {
        ("similarity", "K=2"),
        ("rotation", "k=3"),
    }
    angles = ResultsFolder(tmp_path / "out").read("angles").to_pylist()
    assert {len(row["angles"]) for row in angles} == {3}
    assert len({(r["step"], r["tensor"], r["side"]) for r in angles}) == len(angles)
    third = by_command(run_folder, tmp_path / "out")
    assert both(third) == second


def test_a_checkpoint_between_two_moves_similarity_alone(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {1: 1e-3, 4: 4e-3})
    first = by_key(again(run, tmp_path / "out"), "readings")
    save(run / "checkpoint-2", moved(anchor_weights(), 2e-3, seed=7))
    second = again(run, tmp_path / "out")
    found = by_key(second, "readings")
    assert {key[4] for key in first if found[key] != first[key]} == {"similarity"}
    assert tables(second) == tables(again(run, tmp_path / "fresh"))


def test_rows_of_an_earlier_version_do_not_stay() -> None:
    held = [["sparsity", "sparsity", "v0;eta=1"], ["sparsity", "sparsity", "v1;eta=2"]]
    made = [["sparsity", "sparsity", "v1;eta=1"], ["gone", "sparsity", "v1;eta=1"]]
    assert beside.rows([*held, made[1]], [made[0]]) == [made[0], held[1]]


def test_a_run_of_the_same_name_from_elsewhere_is_refused(tmp_path: Path) -> None:
    runs = [
        save_run(tmp_path / name / "run", {1: size}) for name, size in (("a", 1e-3), ("b", 2e-3))
    ]
    first = again(runs[0], tmp_path / "out")
    whole = tables(first)
    with pytest.raises(ResultsError, match="another name with --run"):
        again(runs[1], tmp_path / "out")
    with pytest.raises(ResultsError, match="same anchor"):
        measure(
            find_trajectories(
                [runs[0] / "checkpoint-1"],
                anchor=save(tmp_path / "other", anchor_weights(5)),
                run=None,
            ),
            tmp_path / "out",
            OPTIONS,
            workers=1,
        )

    assert tables(first) == whole


def test_a_moved_run_is_still_the_same_run(tmp_path: Path) -> None:
    first = again(save_run(tmp_path / "a" / "run", {1: 1e-3}), tmp_path / "out")
    before = stamps(first)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert stamps(again(tmp_path / "b" / "run", tmp_path / "out")) == before


def test_a_deleted_checkpoint_keeps_its_place(tmp_path: Path) -> None:
    """Trainers delete old checkpoints; what was measured of them, and after them, stays."""
    run = save_run(tmp_path / "run", {1: 1e-3, 2: 2e-3, 4: 4e-3})
    first = again(run, tmp_path / "out")
    whole, before = tables(first), stamps(first)
    shutil.rmtree(run / "checkpoint-2")
    second = again(run, tmp_path / "out")
    assert stamps(second) == before
    assert tables(second) == whole
    next(iter((tmp_path / "out").rglob("factors/run/2/*.safetensors"))).unlink()
    with pytest.raises(ResultsError, match="has been deleted since"):
        again(run, tmp_path / "out")


def test_an_increment_over_a_hole_is_not_compared(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {1: 1e-3, 2: 2e-3})
    again(run, tmp_path / "out")
    shutil.rmtree(run / "checkpoint-2")
    save(run / "checkpoint-4", moved(anchor_weights(), 4e-3))
    found = again(run, tmp_path / "out").read("readings").to_pylist()
    last = [r for r in found if r["step"] == 4 and r["quantity"] == "right_increment"]
    assert last
    assert {(row["value"], row["flags"]) for row in last} == {(None, "checkpoint_missing")}


def test_similarity_survives_a_narrower_request(
    run_folder: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    some = replace(OPTIONS, passes=passes(["stored"], ["rank", "similarity"]))
    again(run_folder, tmp_path / "out", some)
    narrow = replace(OPTIONS, passes=passes(["stored"], ["sparsity"]))
    found = again(run_folder, tmp_path / "out", narrow).read("readings")
    assert set(found["diagnostic"].to_pylist()) == {"rank", "similarity", "sparsity"}


def test_formats_that_differ_are_said(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {1: 1e-3})
    save(run / "checkpoint-2", moved(anchor_weights(), 2e-3), torch.bfloat16)
    rows = again(run, tmp_path / "out").read("readings").to_pylist()
    stored = [row for row in rows if row["definition"].endswith("as=stored")]
    for row in stored:
        if row["diagnostic"] != "similarity":
            assert ("mixed_precision" in row["flags"]) is (row["step"] == 2)
    assert {(row["step"], row["stored_precision"]) for row in stored} == {
        (1, "float32"),
        (2, "bfloat16"),
    }


def test_the_study_is_kept_when_runs_are_added(run_folder: Path, tmp_path: Path) -> None:
    trajectories = find_trajectories([run_folder])
    few = replace(OPTIONS, passes=passes(["stored"], ["sparsity"]))
    measure(trajectories, tmp_path, few, workers=1, study={"title": "kept"})
    assert again(run_folder, tmp_path, few).manifest()["study"] == {"title": "kept"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_and_what_was_done_is_kept(
    tmp_path: Path, value: float
) -> None:
    run = save_run(tmp_path / "run", {1: 1e-3})
    bad = moved(anchor_weights(), 2e-3)
    bad["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save(run / "checkpoint-2", bad)
    with pytest.raises(CheckpointError, match=r"up_proj.*checkpoint-2") as caught:
        again(run, tmp_path / "out")
    assert "1 of 2560 entries" in str(caught.value)
    assert list((tmp_path / "out").rglob("*.safetensors"))


def test_a_disk_that_is_full_is_said_once_and_work_is_kept(
    run_folder: Path, tmp_path: Path, results: ResultsFolder
) -> None:
    """A file-size limit stands in for the full disk: writing fails half-way with an OSError."""
    out = tmp_path / "out"
    limit = 9_000  # some units fit, the larger ones do not
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from offaxis.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["measure", str(run_folder), "--out", str(out), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "do:" in done.stderr
    assert not list(out.rglob("*.partial"))
    assert tables(again(run_folder, out)) == tables(results)


def test_draws_do_not_touch_the_global_generator(run_folder: Path, tmp_path: Path) -> None:
    from offaxis.measurement.plan import make_plan
    from offaxis.measurement.stream import run_task

    state = torch.get_rng_state()
    plan = make_plan(find_trajectories([run_folder]), ResultsFolder(tmp_path), OPTIONS, str)
    run_task(plan.tasks[0])
    assert torch.equal(torch.get_rng_state(), state)
