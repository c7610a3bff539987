"""One measured run, shared by the tests that only read it."""

from pathlib import Path

import pytest

from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.measurement import Options, Pass, every_name, measure
from offaxis.measurement.study import IN_BF16
from offaxis.table import ResultsFolder
from tests.models import save_run

OPTIONS = Options(passes=(Pass("stored", every_name()), Pass("bf16", IN_BF16)))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {1: 1e-4, 5: 3e-3, 20: 3e-2}
    return save_run(tmp_path_factory.mktemp("runs") / "tiny", sizes)


@pytest.fixture(scope="session")
def results(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    out = tmp_path_factory.mktemp("results")
    return measure(find_trajectories([run_folder]), out, OPTIONS, workers=1)


def content(out: Path) -> dict[str, bytes]:
    """The bytes of every table and of the manifest; nothing in them belongs to one execution."""
    found = [*out.rglob("*.parquet"), out / "manifest.json"]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def undisturbed(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of the run, with the options that a command has by default."""
    out = tmp_path_factory.mktemp("undisturbed")
    measure(find_trajectories([run_folder]), out, Options(), workers=1)
    return content(out)
