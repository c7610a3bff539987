"""What is read ahead is the same as what is read in turn, and earlier."""

import threading

import pytest
import torch

from offaxis.measurement.ahead import ahead, worth_it


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_every_reader_has_its_turn(enabled: bool, count: int) -> None:
    readers = [lambda i=i: torch.tensor(float(i)) for i in range(count)]
    assert [float(read()) for read in ahead(readers, enabled=enabled)] == list(range(count))


def test_the_next_is_read_while_one_is_used() -> None:
    begun = threading.Event()

    def second() -> torch.Tensor:
        begun.set()
        return torch.ones(())

    turns = ahead([lambda: torch.zeros(()), second], enabled=True)
    assert float(next(turns)()) == 0
    assert begun.wait(10)
    assert float(next(turns)()) == 1


def test_in_turn_nothing_is_read_before_it_is_asked_for() -> None:
    asked: list[int] = []
    readers = [lambda i=i: asked.append(i) or torch.zeros(()) for i in range(3)]
    for turn, read in enumerate(ahead(readers, enabled=False)):
        assert len(asked) == turn
        read()


def test_an_error_of_reading_comes_in_its_turn() -> None:
    def broken() -> torch.Tensor:
        raise OSError("gone")

    turns = ahead([lambda: torch.zeros(()), broken, lambda: torch.ones(())], enabled=True)
    next(turns)()
    with pytest.raises(OSError, match="gone"):
        next(turns)()


def test_a_core_that_reads_cannot_compute() -> None:
    assert not worth_it("cpu")
    assert worth_it("cuda:1")
