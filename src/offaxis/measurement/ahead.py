"""Reading ahead: while an accelerator works on one matrix, the next one is read and sent to it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Reader = Callable[[], Tensor]


def worth_it(device: str) -> bool:
    """Whether reading and computing use different hardware: on the CPU they share the core."""
    return torch.device(device).type != "cpu"


def ahead(readers: Sequence[Reader], *, enabled: bool) -> Iterator[Reader]:
    """Yield the readers in order; if enabled, the one after is being read while one is used.

    What was read ahead is held until its turn is over: two matrices at a time. An error of reading
    is raised where its matrix is asked for.
    """
    if not enabled:
        yield from readers
        return
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(readers[0]) if readers else None
        for after in (*readers[1:], None):
            if following is None:
                return
            current = following
            following = None if after is None else thread.submit(after)
            yield current.result
