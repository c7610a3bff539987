"""A teacher behind a server: it tells the log-probability of each sampled token, and no more."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from offaxis.errors import RecipeError
from offaxis.recipe import TeacherSource
from offaxis.training.engines.client import Server
from offaxis.training.rows import Rows


class HttpTeacher:
    """Scores rollouts through an OpenAI-compatible server with prompt log-probabilities.

    Enough for the objectives that read the teacher at the sampled token; divergences over the
    vocabulary need the teacher in this process. Replicas of a server need not agree to the last
    digit, and a run with such a teacher repeats only as far as its server does.

    Raises:
        UsageError: If httpx is not installed.
    """

    def __init__(self, source: TeacherSource) -> None:
        assert source.url is not None
        self.server = Server(source.url, source.engine, source.model, source.deadline_seconds)

    def check_tokens(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
        """Compare how the server and the student split texts of the task.

        Raises:
            RecipeError: At the first token that differs.
            ServerError: If the server cannot be asked.
        """
        for text in texts:
            own = tokenizer(text, add_special_tokens=False)["input_ids"]
            its = self.server.tokenize(text)
            if own == its:
                continue
            at = next((i for i, (a, b) in enumerate(zip(own, its, strict=False)) if a != b), None)
            at = min(len(own), len(its)) if at is None else at
            a, b = (ids[at] if at < len(ids) else None for ids in (own, its))
            raise RecipeError(
                f"teacher at {self.server.url}",
                expected="a teacher that splits texts as the student does",
                found=f"token {at} of {text[:60]!r} has id {a} for the student and {b} there",
                do="serve a teacher that shares the student's tokenizer",
            )

    def score(self, rows: Rows) -> Rows:
        """The rows with the teacher's log-probabilities (nats) of the tokens on the mask.

        Raises:
            ServerError: If the server fails; nothing is ever filled in for it.
        """
        mask_BT = rows.batch.mask_BT
        # A row is asked about up to its last token that counts: what follows is padding.
        ends = [int(mask.nonzero().max()) + 2 if mask.any() else 0 for mask in mask_BT]
        asked = [ids[:end].tolist() for ids, end in zip(rows.input_ids_BS, ends, strict=True)]
        scores = iter(self.server.score([ids for ids in asked if ids]))
        logprobs_BT = torch.zeros(mask_BT.shape)
        for b, ids in enumerate(asked):
            if ids:
                logprobs_BT[b, : len(ids) - 1] = torch.tensor(next(scores))
        placed: Tensor = torch.where(mask_BT, logprobs_BT.to(mask_BT.device), 0.0)
        return replace(rows, batch=replace(rows.batch, teacher_logprobs_BT=placed))
