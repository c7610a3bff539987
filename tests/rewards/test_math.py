"""Mathematical answers: what is equal, and that no comparison outlives its deadline."""

import os
import time

import pytest

from offaxis.errors import ResultsError
from offaxis.rewards.deadlines import DeadlinePool
from offaxis.tasks.base import Document

pytest.importorskip("math_verify")

from offaxis.rewards.math import compare, math

# Without a limit Math-Verify computes this tower of powers for as long as one waits.
ENDLESS = r"\boxed{9^{9^{9^{9}}}}"


@pytest.mark.parametrize(
    ("reference", "completion", "score"),
    [
        ("34", r"The answer is \boxed{34}.", 1.0),
        ("34", "Answer: 34", 1.0),
        ("34", "Answer: 35", 0.0),
        ("34", "", 0.0),
        (r"\frac{1}{2}", r"\boxed{0.5}", 1.0),
        (r"$\frac{1}{2}$", "1/2", 1.0),
        ("", "34", None),
        (" ", "34", None),
    ],
)
def test_equal_is_what_means_the_same(reference, completion, score):
    assert compare((reference, completion)) == score


def test_a_comparison_past_its_deadline_is_killed_and_not_judged():
    scorer = math(deadline_seconds=5.0, workers=1)
    documents = [Document("q", "", "34")] * 3
    began = time.monotonic()
    scores = scorer(documents, [r"\boxed{34}", ENDLESS, r"\boxed{35}"], key="")
    # The process that hung was replaced, and the next pair judged by the new one.
    assert scores == [1.0, None, 0.0]
    assert time.monotonic() - began > 5.0
    assert scorer(documents[:1], [r"\boxed{34}"], key="") == [1.0]


def test_calls_are_answered_in_order_and_the_slow_one_alone_is_lost():
    pool = DeadlinePool(time.sleep, seconds=1.0, workers=2)
    began = time.monotonic()
    assert pool.map([0.0, 60.0, 0.0, 0.0]) == [None] * 4  # sleep returns nothing
    assert 1.0 < time.monotonic() - began < 30.0
    pool.close()
    pool = DeadlinePool(abs, seconds=20.0, workers=2)
    assert pool.map([-3, "no number", 2.5]) == [3, None, 2.5]
    assert pool.map([]) == []
    pool.close()


def test_a_process_that_dies_in_a_call_is_replaced():
    pool = DeadlinePool(os._exit, seconds=20.0, workers=1)
    assert pool.map([1]) == [None]
    assert pool.map([0, 0]) == [None, None]
    pool.close()


def test_a_process_that_never_begins_is_an_error(monkeypatch):
    monkeypatch.setattr("offaxis.rewards.deadlines._START_SECONDS", 0.0)
    pool = DeadlinePool(abs, seconds=1.0, workers=1)
    with pytest.raises(ResultsError, match="to begin"):
        pool.map([1])
    pool.close()


def test_the_processes_end_with_their_pool():
    pool = DeadlinePool(abs, seconds=20.0, workers=1)
    pool.map([1])
    pid = pool._workers[0]._process.pid
    del pool
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
