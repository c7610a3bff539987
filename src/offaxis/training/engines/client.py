"""One server over HTTP: asked again while it may only be busy, and given up after a deadline."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from offaxis.errors import ServerError, require
from offaxis.training.engines.formats import Format, Json, Request, Sample, Sampling
from offaxis.training.engines.sglang import Sglang
from offaxis.training.engines.vllm import Vllm

Item = TypeVar("Item")
Read = TypeVar("Read")

# Requests under way, and sequences scored in one: enough to keep a server busy, few enough for a
# body of some megabytes.
_AT_ONCE = 32
# Waiting between two tries doubles from the first to the last of these.
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.2, 20.0
# Answers that say "not now" rather than "not like this".
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Server:
    """An inference server and how it is spoken to.

    Args:
        url: Where it listens, such as http://127.0.0.1:8000 (the paths are added).
        engine: Whose requests it takes: "vllm" or "sglang".
        model: The name it serves the model under (vLLM).
        deadline_seconds: How long one question may go unanswered, tries and waits included.

    Raises:
        UsageError: If httpx is not installed.
    """

    def __init__(self, url: str, engine: str, model: str, deadline_seconds: float) -> None:
        require("httpx", "http", url)
        import httpx  # noqa: PLC0415 - an extra

        self.url, self.deadline_seconds = url.rstrip("/").removesuffix("/v1"), deadline_seconds
        self.format: Format = Vllm(model) if engine == "vllm" else Sglang()
        self._client = httpx.Client()
        self._unreachable: type[Exception] = httpx.TransportError

    def tokenize(self, text: str) -> list[int]:
        """The server's tokens of a text."""
        return self._ask(self.format.tokenize(text), lambda answer: list(answer["tokens"]))

    def score(self, ids: Sequence[list[int]]) -> list[list[float]]:
        """Log-probabilities (nats) of `ids[i][1:]`, each given the tokens before it.

        Raises:
            ServerError: If the server does not answer in time, or with anything but finite
                log-probabilities of exactly these tokens.
        """

        def scored(some: Sequence[list[int]]) -> list[list[float]]:
            def read(answer: Json) -> list[list[float]]:
                return _finite(self.format.read_scores(answer, some))

            return self._ask(self.format.score(some), read)

        parts = [ids[begin : begin + _AT_ONCE] for begin in range(0, len(ids), _AT_ONCE)]
        return [row for rows in self._at_once(scored, parts) for row in rows]

    def sample(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Sample]:
        """Completions prompt by prompt, with the log-probabilities they were sampled with.

        Every prompt is a request with a seed of its own: prompts that share a seed would share the
        noise of their samples.

        Raises:
            ServerError: As `score`.
        """
        group = sampling.per_prompt

        def sampled(number: int) -> list[Sample]:
            def read(answer: Json) -> list[Sample]:
                samples = self.format.read_samples(answer)
                if len(samples) != group or any(len(s.ids) != len(s.logprobs) for s in samples):
                    raise ValueError(f"{len(samples)} completions, where {group} were asked for")
                _finite([s.logprobs for s in samples])
                return samples

            keyed = sampling._replace(seed=sampling.seed + group * number)
            return self._ask(self.format.sample(prompts[number], keyed), read)

        return [s for part in self._at_once(sampled, range(len(prompts))) for s in part]

    def load(self, folder: str) -> None:
        """Have the server take up the weights of a folder that it can read.

        Raises:
            ServerError: If it does not, or has no request for it.
        """
        request = self.format.load(folder)
        if request is None:
            raise self._failed("a server that loads weights from a folder", "no such request")

        def loaded(answer: Json) -> bool:
            if answer["success"] is not True:
                raise ValueError(str(answer.get("message", "not loaded")))
            return True

        self._ask(request, loaded)

    def _at_once(self, ask: Callable[[Item], Read], items: Sequence[Item]) -> list[Read]:
        """Ask about every item, many at a time: the server batches what comes in together."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, items))

    def _ask(self, request: Request, read: Callable[[Json], Read]) -> Read:
        """Post until there is an answer, the deadline is over, or the server refuses."""
        end, wait = time.monotonic() + self.deadline_seconds, _FIRST_WAIT_SECONDS
        while True:
            left = max(end - time.monotonic(), _FIRST_WAIT_SECONDS)
            try:
                response = self._client.post(
                    self.url + request.path, json=request.body, timeout=left
                )
            except self._unreachable as error:
                found = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    return self._read(response, request, read)
                found = f"HTTP {response.status_code}: {response.text[:200]}"
                if response.status_code not in _PASSING:
                    raise self._failed(f"an answer to {request.path}", found)
            if time.monotonic() + wait > end:
                expected = f"an answer to {request.path} within {self.deadline_seconds:g} s"
                raise self._failed(expected, found)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _read(self, response: Any, request: Request, read: Callable[[Json], Read]) -> Read:  # noqa: ANN401
        try:
            return read(response.json())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            expected = f"{type(self.format).__name__}'s documented answer to {request.path}"
            found = f"{type(error).__name__}: {error}, in {response.text[:200]}"
            raise self._failed(expected, found) from error

    def _failed(self, expected: str, found: str) -> ServerError:
        return ServerError(
            self.url,
            expected=expected,
            found=found,
            do="start the server again, or correct url, engine and model, and repeat the command",
        )


def _finite(logprobs: list[list[float]]) -> list[list[float]]:
    if not all(math.isfinite(value) for row in logprobs for value in row):
        raise ValueError("log-probabilities that are not finite")
    return logprobs
