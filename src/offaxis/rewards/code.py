"""Programs, judged by tests that somebody else's sandbox runs; nothing is executed here."""

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

from pydantic import Field, PositiveInt

from offaxis.errors import require
from offaxis.rewards.base import Scorer, reward
from offaxis.tasks.base import Document

Seconds = Annotated[float, Field(gt=0, le=3600)]
Share = Annotated[float, Field(gt=0, le=1)]

_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)


class Outcome(NamedTuple):
    """How many tests a program has passed, of how many."""

    passed: int
    total: int


@runtime_checkable
class Runner(Protocol):
    """Runs a program against tests, somewhere else.

    What it promises, for a program written by a model that is being rewarded for passing:

    - isolation: a container or a virtual machine of its own for every run, as a user without
      rights, on a file system that is thrown away; neither the tests nor the verdict can be read
      or written by the program;
    - no network;
    - limits on memory, on processors and on processes that the kernel enforces (cgroup
      `memory.max`, `cpu.max`, `pids.max`; the rlimit on processes does not bind root);
    - a deadline after which the whole process tree is killed, children included.
    """

    def run(self, code: str, tests: Any) -> Outcome | None:  # noqa: ANN401 - as the data has them
        """The outcome; None where there is none, which is no fault of the program."""
        ...


class HttpRunner:
    """A runner behind an address: one POST a program.

        request  {"language": "python", "code": "...", "tests": ..., "deadline_seconds": 10.0}
        answer   {"passed": 3, "total": 4}

    A program that fails, crashes or is killed at its deadline has passed fewer tests: that is an
    answer. No answer within twice the deadline and a grace of five seconds, a status other than 200
    or other content is no outcome.
    """

    _GRACE_SECONDS = 5.0

    def __init__(self, url: str, language: str, deadline_seconds: float) -> None:
        import httpx  # noqa: PLC0415 - an extra

        self._url, self._language, self._deadline = url, language, deadline_seconds
        timeout = 2 * deadline_seconds + self._GRACE_SECONDS
        # Proxies of the environment would see the tests.
        self._client = httpx.Client(timeout=timeout, trust_env=False)
        self._errors = (httpx.HTTPError, httpx.InvalidURL)

    def run(self, code: str, tests: Any) -> Outcome | None:  # noqa: ANN401 - as the data has them
        """Ask the sandbox."""
        content = {
            "language": self._language,
            "code": code,
            "tests": tests,
            "deadline_seconds": self._deadline,
        }
        try:
            answer = self._client.post(self._url, json=content)
            found = answer.raise_for_status().json()
            outcome = Outcome(found["passed"], found["total"])
        except (*self._errors, ValueError, KeyError, TypeError):
            return None
        is_sound = all(type(count) is int for count in outcome)
        return outcome if is_sound and 0 <= outcome.passed <= outcome.total > 0 else None


@reward(source="unit-test rewards of Le et al. 2022, arXiv:2207.01780; DeepCoder-Preview")
def code(
    *,
    url: str,
    language: str = "python",
    deadline_seconds: Seconds = 10.0,
    threshold: Share = 1.0,
    concurrency: PositiveInt = 8,
) -> Scorer:
    """One where a sandbox behind `url` finds that the program passes its tests, else zero.

    The program is what stands in the last fenced block; a completion without one earns 0. The
    document's reference, parsed where it is JSON, goes to the sandbox as `tests`. What the sandbox
    gives no outcome for cannot be judged (None). `Runner` says what a sandbox has to promise.

    Args:
        url: Where programs are posted; `HttpRunner` says in which form.
        language: What the sandbox is told.
        deadline_seconds: What the sandbox is told to kill a program after.
        threshold: The share of tests that has to pass.
        concurrency: How many programs are judged at a time.

    Raises:
        UsageError: If httpx is not installed.
    """
    require("httpx", "http", "rewards.kind")
    return judged_by(HttpRunner(url, language, deadline_seconds), threshold, concurrency)


def judged_by(runner: Runner, threshold: float = 1.0, concurrency: int = 1) -> Scorer:
    """A scorer with any runner; settings as in `code`."""

    def score(document: Document, completion: str) -> float | None:
        if not document.reference:
            return None
        programs = _FENCED.findall(completion)
        if not programs:
            return 0.0
        outcome = runner.run(programs[-1], _parsed(document.reference))
        return None if outcome is None else float(outcome.passed >= threshold * outcome.total)

    def scores(
        documents: Sequence[Document], completions: Sequence[str], *, key: str
    ) -> list[float | None]:
        # Threads: they wait for the sandbox, and compute nothing.
        with ThreadPoolExecutor(concurrency) as threads:
            return list(threads.map(score, documents, completions))

    return scores


def _parsed(text: str) -> Any:  # noqa: ANN401 - as the data has them
    """Tests as JSON where they are, columns that hold JSON as texts included."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict):
        return {k: _parsed(v) if isinstance(v, str) else v for k, v in value.items()}
    return value
