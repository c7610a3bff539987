"""The libraries underneath, told to be quiet and reproducible."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers


@contextmanager
def quiet_and_reproducible(threads: int) -> Iterator[None]:
    """No chatter and a fixed number of threads inside; what was set before is set again after.

    Sums are split among threads, so their number is part of what makes a run repeat bit for bit.
    """
    verbosity = transformers.logging.get_verbosity()
    num_threads = torch.get_num_threads()
    has_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            # Trainer's default pins memory for accelerators; on a CPU that is a warning, no more.
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            yield
    finally:
        torch.set_num_threads(num_threads)
        transformers.logging.set_verbosity(verbosity)
        if has_bars:
            transformers.logging.enable_progress_bar()
