"""Settings of every test: one thread, no network, the same examples on every machine."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

from offaxis.files import exclusively
from tests.inline import open_inline

torch.set_num_threads(1)

IN_TRIALS = bool(os.environ.get("OFFAXIS_TRIALS"))

settings.register_profile("short", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("trials", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("trials" if IN_TRIALS else "short")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long forms run in `make trials` only."""
    if IN_TRIALS:
        return
    for item in items:
        if item.get_closest_marker("trials"):
            item.add_marker(pytest.mark.skip(reason="the long form: make trials"))


@pytest.fixture(scope="session", autouse=True)
def one_worker_is_this_process():
    """A worker takes seconds to load its libraries, and what it answers is the same here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offaxis.measurement.run.open_executor", open_inline)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Fills a folder that all processes of a test session share: whoever asks first fills it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def filled(name, fill):
        folder, mark = shared / name, shared / f"{name}.filled"
        with exclusively(shared / f"{name}.lock"):
            if not mark.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                mark.touch()
        return folder

    return filled
