"""How a model is judged: greedy accuracy on fixed problems, and how far it went from its start."""

# ruff: noqa: N815 - shapes end the names of fields, too

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.objectives.divergences import forward_kl
from offaxis.recipe import Evaluation
from offaxis.tasks.base import Task
from offaxis.training.rollouts import complete, keyed_randomness
from offaxis.training.rows import Rows

# Rows of one forward pass: few enough that a small model's activations stay in the caches.
_ROWS = 256


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_problems: int,
    seed: int,
) -> float:
    """The fraction of the first held-out problems that greedy completions solve, in float32."""
    solved = 0
    for begin in range(0, num_problems, _ROWS):
        indices = range(begin, min(begin + _ROWS, num_problems))
        prompts = [task.problem(seed=seed, index=index).prompt for index in indices]
        completions = complete(
            model, tokenizer, prompts, max_tokens=task.answer_length, temperature=0.0
        )
        solved += sum(map(task.verify, prompts, completions.texts))
    return solved / num_problems


class StartSamples(NamedTuple):
    """The start's own samples and its log-probabilities there: the ruler of the forward KL."""

    rows: Rows
    log_p_BTV: Float[Tensor, "B T V"]

    @classmethod
    def draw(
        cls,
        start: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        evaluation: Evaluation,
    ) -> "StartSamples":
        """Sample from the start at temperature 1, on held-out problems."""
        indices = range(evaluation.samples)
        prompts = [task.problem(seed=evaluation.seed, index=i).prompt for i in indices]
        with keyed_randomness("start-samples", evaluation.seed):
            completions = complete(
                start, tokenizer, prompts, max_tokens=task.answer_length, temperature=1.0
            )
        return cls(completions.rows, _log_p(start, completions.rows))

    def forward_kl_nats(self, model: PreTrainedModel) -> float:
        """KL(start || model) in nats, the mean over the tokens of the samples, in float32."""
        kl_BT = forward_kl(_log_p(model, self.rows), self.log_p_BTV)
        return float(kl_BT[self.rows.batch.mask_BT].mean())


def _log_p(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "B T V"]:
    """Log-probabilities (nats) of every next token."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=rows.input_ids_BS[:, :-1], use_cache=False).logits
    model.train(was_training)
    log_p: Float[Tensor, "B T V"] = logits.float().log_softmax(-1)
    return log_p
