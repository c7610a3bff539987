"""A Ray cluster: what RAY_ADDRESS or the last `ray start` names, else one started in process.

One remote task an item, begun again when its worker has died. Only paths and settings travel, so
every node must see the checkpoints, the results and the folder we stand in under the same paths.
"""

import importlib
import os
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch

from offaxis.errors import ResultsError, UsageError
from offaxis.measurement.executors.base import Answer, Limits, Work, in_turn
from offaxis.measurement.executors.cluster import find_cluster
from offaxis.workers import WORKER, num_cores, require_workers

MAX_RETRIES = 3
"""How often a task is begun again whose worker has died, as by default in Ray."""

_OBJECT_STORE_BYTES = 100_000_000  # answers are rows of tables; Ray takes no less than 75 MiB
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Ray:
    """Tasks on a cluster, each with one core and the memory that it says it needs.

    Args:
        limits: How many tasks run at once, and their common budget; what the cluster has by
            default.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def __enter__(self) -> "Ray":
        require_workers(self.limits.tasks)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self._ray = _import()
        self._connect()
        return self

    def _connect(self) -> None:
        """Join a running cluster, or start one."""
        common: dict[str, Any] = {
            "logging_level": "ERROR",
            "log_to_driver": False,
            "runtime_env": {"env_vars": WORKER},
        }
        if address := find_cluster():
            try:
                self._ray.init(address, **common)
                return
            except (ConnectionError, RuntimeError) as error:
                raise _not_joined(address, error) from error
        self._ray.init(
            "local",
            num_cpus=self.limits.tasks or num_cores(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **common,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ray.shutdown()

    def as_done(
        self,
        function: Callable[[Work], Answer],
        work: Sequence[Work],
        peaks: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Call the function on every item; see `Executor.as_done`."""
        held = [0] * len(work) if peaks is None else peaks
        Limits(memory_bytes=self._largest_node()).require_room(held)
        remote, folder = self._ray.remote(_work), os.getcwd()

        def begin(position: int) -> Any:  # noqa: ANN401 - Ray's references carry no types
            memory = held[position]
            task = remote.options(num_cpus=1, memory=memory or None, max_retries=MAX_RETRIES)
            return task.remote(folder, function, work[position])

        for position, reference in in_turn(held, self.limits, begin, self._ended):
            yield position, self._answer(reference)

    def _largest_node(self) -> int:
        """Bytes of the node that has most: a task that needs more would wait for ever."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return int(max(resources.get("memory", 0) for resources in nodes))

    def _ended(self, running: Collection[Any]) -> Iterable[Any]:
        ended: list[Any] = self._ray.wait(list(running), num_returns=1)[0]
        return ended

    def _answer(self, reference: Any) -> Any:  # noqa: ANN401 - whatever the function answers
        """Fetch an answer; what the function raised is raised as itself."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise ResultsError(
                "a task on the Ray cluster",
                expected=f"it to finish, begun again up to {MAX_RETRIES} times",
                found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                do="run the same command again, with fewer --workers if memory is short; "
                "what was finished is kept",
            ) from error


def _not_joined(address: str, error: Exception) -> UsageError:
    return UsageError(
        "--executor ray",
        expected="a cluster of this version of Ray and Python, of which this machine is a node",
        found=f"{address!r}: {' '.join(str(error).split())[:200]}",
        do="join it with ray start --address, set RAY_AUTH_MODE=token if it asks for one, "
        "or start another one with ray start --head",
    )


def _work(folder: str, function: Callable[[Work], Answer], item: Work) -> Answer:
    """Call the function in a worker, where relative paths must mean what they mean here."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ResultsError(
            folder,
            expected="the folder that the command was started in, on every node of the cluster",
            found=f"{error.strerror} on node {platform.node()}",
            do="start it in a folder that all nodes share",
        ) from error
    torch.set_num_threads(1)
    return function(item)


def _import() -> Any:  # noqa: ANN401 - an extra, without types where it is missing
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(
            "--executor ray",
            expected="Ray, an extra of offaxis",
            found=str(error),
            do="install it with pip install 'offaxis[ray]', or leave --executor out",
        ) from error
