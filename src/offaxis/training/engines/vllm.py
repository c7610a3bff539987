"""vLLM's OpenAI-compatible server: `/v1/completions` with its extra parameters, and `/tokenize`.

Written from the documentation of vLLM 0.15.0 (docs.vllm.ai, vllm.entrypoints.openai.completion.
protocol: `prompt_logprobs`, `return_token_ids`) and of 0.22.1 (vllm.v1.sample.sampler: log-
probabilities are `raw_logprobs` by default, those before temperature and cuts). The server itself
was never run here.

`prompt_logprobs = 0` asks for the token of the prompt alone: one entry a position, none at the
first. The server writes minus infinity as -9999, which is read back as that.
"""

import math
from collections.abc import Sequence

from offaxis.training.engines.formats import Json, Request, Sample, Sampling

_MINUS_INFINITY = -9999.0


class Vllm:
    """Requests and answers of vLLM.

    Args:
        model: The name the server serves the model under.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    def tokenize(self, text: str) -> Request:
        """As `Format.tokenize`."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        return Request("/tokenize", body)

    def score(self, ids: Sequence[list[int]]) -> Request:
        """As `Format.score`; at least one token has to be generated, and is not read."""
        body = {
            "model": self.model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        return Request("/v1/completions", body)

    def read_scores(self, answer: Json, ids: Sequence[list[int]]) -> list[list[float]]:
        """As `Format.read_scores`."""
        choices = _in_order(answer)
        return [
            [
                _logprob(entry[str(token)]["logprob"])
                for token, entry in zip(row[1:], rest, strict=True)
            ]
            for row, (_, *rest) in zip(ids, (c["prompt_logprobs"] for c in choices), strict=True)
        ]

    def sample(self, prompt: list[int], sampling: Sampling) -> Request:
        """As `Format.sample`."""
        body = {
            "model": self.model,
            "prompt": prompt,
            "n": sampling.per_prompt,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": sampling.ends,
            "seed": sampling.seed,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
        }
        return Request("/v1/completions", body)

    def read_samples(self, answer: Json) -> list[Sample]:
        """As `Format.read_samples`."""
        return [
            Sample(c["token_ids"], list(map(_logprob, c["logprobs"]["token_logprobs"])))
            for c in _in_order(answer)
        ]

    def load(self, folder: str) -> Request | None:
        """None: vLLM documents no request that loads a folder."""
        return None


def _logprob(written: Json) -> float:
    value = float(written)
    return value if value > _MINUS_INFINITY else -math.inf


def _in_order(answer: Json) -> list[Json]:
    choices: list[Json] = sorted(answer["choices"], key=lambda choice: choice["index"])
    return choices
