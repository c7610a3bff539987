"""Settings of every test: one thread, no network, the same examples on every machine."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("offaxis", deadline=None, derandomize=True)
settings.load_profile("offaxis")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long forms run in `make trials` only."""
    if os.environ.get("OFFAXIS_TRIALS"):
        return
    for item in items:
        if item.get_closest_marker("trials"):
            item.add_marker(pytest.mark.skip(reason="the long form: make trials"))
