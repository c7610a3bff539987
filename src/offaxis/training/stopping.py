"""SIGTERM and Ctrl-C, noted for the step in work to be finished first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from offaxis.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether this process was asked to stop.

    Attributes:
        signal: The number of the signal that asked, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def note(self, number: int, _: FrameType | None = None) -> None:
        """Remember a signal; whoever asks a second time does not want to wait."""
        if self.signal is not None:
            raise Interrupted(number)
        self.signal = number


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Note the signals that arrive in this block instead of ending at once.

    Outside the main thread, where no handler can be set, none is; nor for a signal that the process
    was told to ignore.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.signal(number, stop.note)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this block as Ctrl-C does: for a process that only waits for others.

    Raises:
        Interrupted: When the signal arrives.
    """

    def end(number: int, _: FrameType | None = None) -> None:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
