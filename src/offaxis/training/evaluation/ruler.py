"""How far a model went from its anchor: the forward KL on the anchor's own samples.

Log-probabilities of every sampled token over the whole vocabulary would be the largest tensor of a
run. Kept instead is what makes them: the anchor's last hidden states on the samples and a copy of
its head. Both models' logits then exist for a chunk of tokens at a time. A copy of the whole anchor
would need no hidden states, but for a real model it is the larger of the two by far, and each
evaluation would read all samples with it again.

Shapes: B samples, T positions, N sampled tokens of all of them, D hidden entries, V vocabulary.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import kl_div
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.recipe import Evaluation
from offaxis.tasks.base import Task
from offaxis.training.evaluation.solving import at_most
from offaxis.training.heads import check_head
from offaxis.training.rollouts import complete
from offaxis.training.rows import Rows

# Logits of one model that exist at a time (64 MB in float32), and tokens of one forward pass.
_LOGITS = 2**24
_TOKENS = 2**14


class Distance(NamedTuple):
    """KL(anchor || model) summed over the tokens of each sample (nats), and their numbers."""

    nats_B: Float[Tensor, "B"]
    tokens_B: Int[Tensor, "B"]


class StartSamples(NamedTuple):
    """The anchor's own samples, and what makes its log-probabilities there.

    Attributes:
        rows: The samples.
        hidden_ND: The anchor's last hidden states, sampled tokens only.
        head: A copy of its output layer, which stays when the model is trained.
    """

    rows: Rows
    hidden_ND: Float[Tensor, "N D"]
    head: nn.Module

    @classmethod
    def draw(
        cls,
        start: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        evaluation: Evaluation,
    ) -> "StartSamples":
        """Sample from the anchor at temperature 1, on held-out problems.

        Raises:
            CheckpointError: If the model's logits are not its head of its last hidden states.
        """
        indices = range(at_most(evaluation.samples, task))
        prompts = [task.problem(seed=evaluation.seed, index=i).prompt for i in indices]
        completions = complete(
            start,
            tokenizer,
            prompts,
            max_tokens=task.answer_length,
            temperature=1.0,
            keys=[("start-samples", evaluation.seed, index) for index in indices],
        )
        rows = completions.rows
        check_head(start, "evaluation")
        head = copy.deepcopy(start.get_output_embeddings()).requires_grad_(False)
        return cls(rows, _hidden(start, rows), head)

    def forward_kl_nats(self, model: PreTrainedModel) -> float:
        """KL(anchor || model) in nats, the mean over the tokens of the samples."""
        distance = self.distance(model)
        return float(distance.nats_B.sum() / distance.tokens_B.sum())

    @torch.no_grad()
    def distance(self, model: PreTrainedModel) -> Distance:
        """KL(anchor || model) of each sample: float32 at each token, float64 sums."""
        hidden_ND, head = _hidden(model, self.rows), model.get_output_embeddings()
        chunk = max(1, _LOGITS // head.weight.shape[0])
        nats_N = torch.cat(
            [
                kl_div(
                    _log_p(head, now), _log_p(self.head, then), log_target=True, reduction="none"
                )
                .sum(-1)
                .double()
                for now, then in zip(
                    hidden_ND.split(chunk), self.hidden_ND.split(chunk), strict=True
                )
            ]
        )
        mask_BT = self.rows.batch.mask_BT
        nats_BT = torch.zeros(mask_BT.shape, dtype=torch.float64, device=mask_BT.device)
        nats_BT[mask_BT] = nats_N
        return Distance(nats_BT.sum(1), mask_BT.sum(1))


def _log_p(head: nn.Module, hidden_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    """Log-probabilities (nats) of every next token, in float32."""
    log_p: Float[Tensor, "N V"] = head(hidden_ND).float().log_softmax(-1)
    return log_p


def _hidden(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "N D"]:
    """The last hidden states that predict the sampled tokens, some rows at a time."""
    body = model.get_decoder()
    ids_BT, mask_BT = rows.input_ids_BS[:, :-1], rows.batch.mask_BT
    size = max(1, _TOKENS // ids_BT.shape[1])
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = [
            body(input_ids=ids, use_cache=False).last_hidden_state[mask]
            for ids, mask in zip(ids_BT.split(size), mask_BT.split(size), strict=True)
        ]
    model.train(was_training)
    return torch.cat(found)
