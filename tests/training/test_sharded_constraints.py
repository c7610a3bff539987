"""Constraints on weights that torch's `fully_shard` has split over two processes."""

import os
import subprocess
import sys

import pytest
import torch
from tests.training import sharded as sharded_module
from tests.training.sharded import trained

from offaxis.training.constraints.subspace import FORMS


@pytest.fixture(scope="module")
def sharded(once):
    def launch(folder):
        command = [str(folder / "meeting"), str(folder / "found.pt")]
        ranks = [
            subprocess.Popen(
                [sys.executable, sharded_module.__file__, str(rank), *command],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        for rank in ranks:
            assert rank.communicate(timeout=300)[1] is not None
            assert rank.returncode == 0

    return torch.load(once("sharded", launch) / "found.pt")


@pytest.mark.parametrize("kind", [*sorted(FORMS), "mask", "stochastic"])
def test_two_processes_train_what_one_trains(sharded, kind):
    weight, measures = trained(kind, is_sharded=False)
    its_weight, its_measures = sharded[kind]
    if kind == "stochastic":  # shards draw alike, one process does not: equal to a few ulps
        assert its_weight.dtype == torch.bfloat16
        torch.testing.assert_close(its_weight, weight, rtol=0.05, atol=0.02)
        return
    torch.testing.assert_close(its_weight, weight, rtol=0, atol=1e-6)
    assert its_measures == pytest.approx(measures, rel=1e-4, abs=1e-5)
