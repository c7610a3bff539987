"""The gradients of rollouts and of their tokens in linear layers, as factors, by hooks.

Rows of a batch do not see each other, so that one backward pass gives every row its own gradient:
what arrives at the layer's output, times the layer's input, position by position. One pass for each
position gives those of single tokens, whose gradient reaches back to all tokens before them.

Shapes: B rollouts, T positions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from offaxis.errors import CheckpointError, UsageError
from offaxis.linalg.moments import Moment, Samples, moment_of
from offaxis.objectives.base import Head, Streams, TokenBatch
from offaxis.objectives.loss import token_loss
from offaxis.training.losses import LossModels
from offaxis.training.rows import Rows

Gradients = dict[str, Samples]
"""The gradients of the samples of a batch, by the name of the weight."""


@dataclass
class Tape:
    """What went through some layers in one forward pass: their inputs and their outputs, by name.

    Heads of the other models that the loss reads are kept, too: one pass of each serves every loss.
    """

    rows: Rows
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)

    def rollouts(self, streams: Streams) -> Gradients:
        """The gradient of every rollout's loss, the sum over its tokens.

        Args:
            streams: How much each token weighs in each term.
        """
        return self._gradients(self.rows.batch, streams)

    def tokens(self, streams: Streams) -> Iterator[Gradients]:
        """Yield, position by position, the gradients of the tokens that stand there.

        Rollouts without a token at the position are left out.
        """
        batch = self.rows.batch
        places = torch.arange(batch.mask_BT.shape[1], device=batch.mask_BT.device)
        for place in range(len(places)):
            mask_BT = batch.mask_BT & (places == place)
            standing = mask_BT[:, place]
            if not bool(standing.any()):
                continue
            found = self._gradients(replace(batch, mask_BT=mask_BT), streams)
            yield {
                name: Samples(samples.outputs[standing], samples.inputs[standing])
                for name, samples in found.items()
            }

    def _gradients(self, batch: TokenBatch, streams: Streams) -> Gradients:
        loss = token_loss(
            self.heads["student"],
            batch,
            streams,
            num_tokens=1.0,
            teacher=self.heads.get("teacher"),
            reference=self.heads.get("reference"),
        )
        found = torch.autograd.grad(
            loss.value, list(self.outputs.values()), retain_graph=True, allow_unused=True
        )
        return {
            name: Samples(
                torch.zeros_like(self.outputs[name]) if part is None else part, self.inputs[name]
            )
            for name, part in zip(self.outputs, found, strict=True)
        }


@contextmanager
def recorded(
    model: PreTrainedModel, rows: Rows, names: Sequence[str], models: LossModels
) -> Iterator[Tape]:
    """One forward pass of a model in evaluation mode, and of those that its loss reads.

    Args:
        model: The model.
        rows: Rollouts, one a row, weighed by an objective.
        names: The weights of linear layers.
        models: Teacher and reference, as far as the objective reads them.

    Raises:
        CheckpointError: If a name is not that of a linear layer's weight.
        UsageError: If rows hold several documents.
    """
    if rows.document_ids_BS is not None:
        raise UsageError(
            "gradients of rollouts",
            expected="one document to a row",
            found="packed documents",
            do="take rollouts",
        )
    tape, was_training = Tape(rows), model.training
    hooks = [_linear(model, name).register_forward_hook(_keep(tape, name)) for name in names]
    model.eval()
    try:
        tape.heads = models.heads(model, rows)
        yield tape
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


def moments_of(gradients: Mapping[str, Samples]) -> dict[str, Moment]:
    """The second moments of a batch of gradients, by weight."""
    return {name: moment_of(samples) for name, samples in gradients.items()}


def added(held: Mapping[str, Moment], more: Mapping[str, Moment]) -> dict[str, Moment]:
    """The moments of both; nothing is held at first."""
    if not held:
        return dict(more)
    return {name: held[name].plus(moment) for name, moment in more.items()}


def _keep(tape: Tape, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        tape.inputs[name], tape.outputs[name] = given[0].detach(), output

    return hook


def _linear(model: PreTrainedModel, name: str) -> nn.Linear:
    try:
        module = model.get_submodule(name.removesuffix(".weight"))
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear):
        raise CheckpointError(
            f"weight {name!r}",
            expected="the weight of a linear layer",
            found="no such layer" if module is None else type(module).__name__,
            do="name layers as the checkpoint does, such as model.layers.0.self_attn.q_proj.weight",
        )
    return module
