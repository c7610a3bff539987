"""SGLang's native server: `/generate`, `/tokenize` and `/update_weights_from_disk`.

Written from the documentation of SGLang 0.5 (docs.sglang.io, "SGLang Native APIs", "Sampling
Parameters", "SGLang for RL Systems", March 2026). The server itself was never run here.

Every log-probability is a triple [log-probability, token, text or null]; from `logprob_start_len =
0` on, the first token of a prompt has none. Log-probabilities of samples are taken after the
temperature. The seed is honoured under `--enable-deterministic-inference` only.
"""

from collections.abc import Sequence

from offaxis.training.engines.formats import Json, Request, Sample, Sampling


class Sglang:
    """Requests and answers of SGLang, which serves one model and needs no name of it."""

    def tokenize(self, text: str) -> Request:
        """As `Format.tokenize`."""
        return Request("/tokenize", {"prompt": text, "add_special_tokens": False})

    def score(self, ids: Sequence[list[int]]) -> Request:
        """As `Format.score`; nothing is generated."""
        body = {
            "input_ids": list(ids),
            "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        return Request("/generate", body)

    def read_scores(self, answer: Json, ids: Sequence[list[int]]) -> list[list[float]]:
        """As `Format.read_scores`."""
        triples = [a["meta_info"]["input_token_logprobs"] for a in answer]
        return [_logprobs(rest, row[1:]) for row, (_, *rest) in zip(ids, triples, strict=True)]

    def sample(self, prompt: list[int], sampling: Sampling) -> Request:
        """As `Format.sample`; the prompt is repeated, which SGLang advises over its `n`."""
        how = {
            "max_new_tokens": sampling.max_tokens,
            "stop_token_ids": sampling.ends,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        group = range(sampling.per_prompt)
        body = {
            "input_ids": [prompt for _ in group],
            "sampling_params": [{**how, "sampling_seed": sampling.seed + i} for i in group],
            "return_logprob": True,
        }
        return Request("/generate", body)

    def read_samples(self, answer: Json) -> list[Sample]:
        """As `Format.read_samples`."""
        pairs = [(a["output_ids"], a["meta_info"]["output_token_logprobs"]) for a in answer]
        return [Sample(ids, _logprobs(triples, ids)) for ids, triples in pairs]

    def load(self, folder: str) -> Request | None:
        """As `Format.load`."""
        return Request("/update_weights_from_disk", {"model_path": folder})


def _logprobs(triples: Sequence[Json], ids: Sequence[int]) -> list[float]:
    """The log-probabilities of the triples, which have to be of these tokens."""
    if [token for _, token, *_ in triples] != list(ids):
        raise ValueError("log-probabilities of other tokens than those asked about")
    return [float(logprob) for logprob, *_ in triples]
