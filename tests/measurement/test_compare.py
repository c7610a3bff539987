"""Runs from one anchor compared: planted agreement, shares of energy, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from offaxis.cli import run
from offaxis.errors import CheckpointError, UsageError
from offaxis.measurement.compare import compare_command
from tests.models import anchor_weights, moved, save


def touched(weights: dict, share: float, seed: int) -> dict:
    """Weights of which a known share of each matrix is moved visibly, the same for one seed."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.where(torch.rand(W.shape, generator=g) < share, 1.1 * W, W)
        for name, W in weights.items()
    }


def saved(path: Path, end: dict, start: dict | None = None) -> Path:
    save(path / "checkpoint-0", start or anchor_weights())
    save(path / "checkpoint-4", end)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root, start = tmp_path_factory.mktemp("runs"), anchor_weights()
    ends = [touched(start, 0.3, 1), touched(start, 0.3, 1), touched(start, 0.3, 2)]
    return [saved(root / name, end) for name, end in zip("abc", ends, strict=True)]


def test_masks_agree_where_they_were_planted_to(runs: list[Path]) -> None:
    rows = compare_command(runs)["rows"]
    alike = [r for r in rows if r["quantity"] == "jaccard" and r["second"] == "b"]
    assert {r["value"] for r in alike} == {1.0}
    unlike = [r for r in rows if r["quantity"] == "jaccard" and r["second"] == "c"]
    assert len(unlike) == 2 * len(alike) == 10
    for row in unlike:
        assert abs(row["value"] - row["null_mean"]) < 5 * row["null_sd"]
        assert row["chance"] == pytest.approx(0.3 / 1.7, abs=0.03)
    consensus = [r for r in rows if r["quantity"] == "consensus" and r["role"] == "up_proj"]
    assert sum(r["value"] for r in consensus) == pytest.approx(1)
    together = next(r["value"] for r in consensus if r["first"] == "3 of 3")
    assert together == pytest.approx(0.09, abs=0.02)


def test_energy_is_shared_out_among_roles(runs: list[Path], tmp_path: Path) -> None:
    start = anchor_weights()
    end = {name: W + (0.01 if "up_proj" in name else 0.0) for name, W in start.items()}
    rows = compare_command([saved(tmp_path / "up", end), runs[0]])["rows"]
    of = {(r["role"], r["first"]): r for r in rows if r["quantity"] == "energy_share"}
    assert of["up_proj", "up"]["value"] == 1
    assert of["down_proj", "up"]["value"] == 0
    weights = sum(W.numel() for W in start.values() if W.ndim == 2)
    assert of["up_proj", "a"]["null_mean"] == 80 * 32 / weights
    assert sum(r["value"] for (_, name), r in of.items() if name == "a") == pytest.approx(1)


def test_runs_of_other_anchors_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = anchor_weights(seed=5)
    away = saved(tmp_path / "away", moved(other, 0.1), other)
    with pytest.raises(CheckpointError, match="--own-anchors"):
        compare_command([runs[0], away])
    rows = compare_command([runs[0], away], own_anchors=True)["rows"]
    own = {r["role"]: r["value"] for r in rows if r["quantity"] == "coverage" and r["first"] == "a"}
    assert min(own.values()) > 0.95  # nearly all of the other's weights moved
    with pytest.raises(UsageError, match="at least two"):
        compare_command(runs[:1])


def test_the_verb_says_it_to_people_and_programs(
    runs: list[Path], capsys: pytest.CaptureFixture
) -> None:
    names = list(map(str, runs))
    assert run(["compare", *names, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == {"a": 4, "b": 4, "c": 4}
    assert run(["compare", *names]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in lines if line.startswith("jaccard") and "q_proj" in line)
    assert row[:5] == ["jaccard", "q_proj", "a", "b", "1"]
