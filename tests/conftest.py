"""Settings of every test: one thread, no network, the same examples on every machine."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

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
