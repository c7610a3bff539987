"""The fast tier prints what its readings are worth, from the table that it wrote."""

import io
import re
from pathlib import Path

from rich.console import Console

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.measurement import Options, measure
from offaxis.table import ResultsFolder
from tests.models import save_run


def printed(root: Path, size: float, tier: str) -> str:
    folder = save_run(root / "run", {1: size})
    said = io.StringIO()
    console = Console(file=said, width=200)
    options = Options(tier=tier, draws=2, edge_draws=1)
    measure(find_trajectories([folder]), root / "out", options, workers=1, console=console)
    return said.getvalue()


def test_a_small_update_is_trusted(tmp_path: Path) -> None:
    said = printed(tmp_path, 1e-6, "fast")
    (median,) = re.findall(r"validity (\S+) \(median\)", said)
    assert float(median) < 0.05
    assert re.search(r"\b0 of \d+ spectral shifts taken exactly", said)
    readings = ResultsFolder(tmp_path / "out").read("readings").to_pylist()
    computed = {(row["method"], row["compute_precision"]) for row in readings}
    assert computed == {("fast", "float32"), ("exact", "float64")}


def test_a_large_one_is_not(tmp_path: Path) -> None:
    said = printed(tmp_path, 0.3, "fast")
    ((taken, of),) = re.findall(r"(\d+) of (\d+) spectral shifts taken exactly", said)
    assert 0 < int(taken) <= int(of)


def test_the_exact_tier_has_nothing_to_say(tmp_path: Path) -> None:
    assert "validity" not in printed(tmp_path, 1e-3, "exact")
