"""Worker processes: as many as cores, ended with their work and with their parent."""

import ctypes
import multiprocessing
import multiprocessing.process
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager

from offaxis.errors import ResultsError, UsageError

SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
"""The environment of a process that computes on one core, read when its libraries are loaded."""

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""The environment in which glibc returns large blocks to the system as soon as they are free.

Smaller ones wait in the heap until `give_back` is called: what follows finds them again there
without the system's work on every page.
"""

WORKER = SINGLE_THREAD | GIVES_BACK
"""The environment of a process that measures matrices one after another."""

_PATIENCE_SECONDS = 5


def give_back() -> None:
    """Return what the heap keeps of freed blocks to the system, where the C library can (glibc)."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def num_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_workers(count: int | None) -> None:
    """Refuse a number of workers that could do nothing.

    Raises:
        UsageError: If it is given, and not at least one.
    """
    if count is not None and count < 1:
        raise UsageError(
            "--workers",
            expected="at least 1",
            found=str(count),
            do="leave it out for one worker a core",
        )


@contextmanager
def worker_pool(
    count: int | None,
    begin: Callable[..., None],
    *arguments: object,
    environment: Mapping[str, str] = SINGLE_THREAD,
) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread that end with this block, at once where it ends in an error.

    Args:
        count: How many; as many as cores by default.
        begin: Called in each process before its first work.
        arguments: What `begin` is given.
        environment: Variables that the processes have beside ours; `WORKER` for work on large
            matrices.

    Raises:
        UsageError: If the count is not at least one.
        ResultsError: If a process was killed from outside.
    """
    require_workers(count)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        num_cores() if count is None else count,
        multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(begin, arguments),
    )
    try:
        with _environment(environment):  # processes are begun by the first work for them
            yield pool
    except KeyboardInterrupt:
        # The interruption may have fallen inside the pool, which then cannot be asked for anything.
        _end(set(multiprocessing.active_children()) - others)
        raise
    except BaseException as error:
        _end(set(multiprocessing.active_children()) - others)
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenExecutor):
            raise ResultsError(
                "a worker process",
                expected="it to finish its work",
                found="it was killed, perhaps for want of memory",
                do="run the same command again, with fewer --workers if memory is short; "
                "what was finished is kept",
            ) from error
        raise
    else:
        pool.shutdown()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes begun in this block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end(children: set[multiprocessing.process.BaseProcess]) -> None:
    """End processes whose files appear whole or not at all, and which may be ended anywhere."""
    for child in children:
        child.terminate()
    for child in children:
        child.join(_PATIENCE_SECONDS)
        if child.is_alive():
            child.kill()


def _begin(begin: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Prepare a worker: leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent has: a killed parent cannot ask for it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
