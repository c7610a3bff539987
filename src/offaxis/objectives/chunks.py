"""Sums over tokens of functions of their logits, the logits of few tokens at a time.

The gradient is taken chunk by chunk while the sum is: logits are made once, turned into their own
gradient, multiplied into the gradients of hidden states and matrix, and dropped. Checkpointing
would hold as little and make the logits twice.

A chunk has as many tokens as products need to run at speed. What happens to its logits in between
is done for a few tokens at a time, which stay in the caches.

Source: Hsu et al. 2024, arXiv:2410.10989 (the fused linear cross-entropy), here for any function.
Shapes: N tokens in one row, n of a chunk or a piece of it, D entries of the hidden state, V entries
of the vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from offaxis.objectives.base import Head

# Entries of the logits of a chunk, and of a piece of it on a CPU: see benchmarks/loss.py.
_CHUNK, _PIECE = 3 * 2**23, 2**18

Both = tuple[Float[Tensor, ""], Float[Tensor, "2"]]
Function = Callable[[Sequence[Float[Tensor, "1 n V"]], slice], Both]


def tokens_of_chunk(vocabulary: int) -> int:
    """How many tokens' logits are held at a time, unless the caller says otherwise."""
    return max(1, _CHUNK // vocabulary)


def tokens_of_piece(chunk_tokens: int, vocabulary: int, *, on_cpu: bool) -> int:
    """As many tokens of a chunk as fit into a CPU's caches; other devices like one large piece."""
    return min(chunk_tokens, max(1, _PIECE // vocabulary)) if on_cpu else chunk_tokens


def spans(begin: int, end: int, length: int) -> Iterator[slice]:
    """Consecutive slices of a length, the last one as long as is left."""
    for first in range(begin, end, length):
        yield slice(first, min(first + length, end))


def product_dtype(head: Head) -> torch.dtype:
    """The precision of the product that makes logits: autocast's where it is on."""
    device = head.hidden_BTD.device.type
    lower = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if lower else head.hidden_BTD.dtype


def fixed(head: Head) -> Head:
    """A head that gets no gradient, once and for all in the precision of its product."""
    dtype = product_dtype(head)
    hidden_BTD, weight_VD = (tensor.detach().to(dtype) for tensor in head[:2])
    return Head(
        hidden_BTD, weight_VD, None if head.bias_V is None else head.bias_V.detach().to(dtype)
    )


@torch.no_grad()
def logits_at(head: Head, columns: slice) -> Float[Tensor, "1 n V"]:
    """The logits of some positions of a fixed head."""
    return head._replace(hidden_BTD=head.hidden_BTD[:, columns]).logits()


def summed(head: Head, others: Sequence[Head], function: Function, chunk_tokens: int) -> Both:
    """Add up a function of logits and two others that carry no gradient.

    Under autocast the products are of the lower precision, as a model's own would be; sums over
    chunks are float32.

    Args:
        head: What the logits are made of; hidden states in one row.
        others: Fixed heads whose logits the function needs, too.
        function: The logits of every head at some positions, and these, to the value of the one and
            those of the others.
        chunk_tokens: How many tokens' logits are made at a time.

    Returns:
        The sums, in float32; zeros where there are no tokens.
    """
    value, beside = _Summed.apply(*head, _Work(others, function, chunk_tokens))
    return value, beside


class _Work(NamedTuple):
    """What is to be summed, beside the tensors that get gradients."""

    others: Sequence[Head]
    function: Function
    chunk_tokens: int


class _Summed(torch.autograd.Function):
    """`summed` with the gradient of the first function."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context takes attributes
        hidden_BTD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        work: _Work,
    ) -> Both:
        head = Head(hidden_BTD, weight_VD, bias_V)
        wanted = ctx.needs_input_grad[:3]
        gradients = _Gradients(head, wanted)
        product = fixed(head)
        sums = hidden_BTD.new_zeros(3, dtype=torch.float32)
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            for columns in spans(0, hidden_BTD.shape[1], work.chunk_tokens):
                logits = [logits_at(each, columns) for each in (product, *work.others)]
                sums += _turned_into_gradient(logits, work.function, columns, wanted=any(wanted))
                gradients.add(logits[0][0], product, columns)
                del logits  # before the next chunk's are made
        ctx.save_for_backward(*gradients.typed())
        value, beside = sums[0].clone(), sums[1:].clone()
        ctx.mark_non_differentiable(beside)
        return value, beside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        # The gradient of a loss itself is one: its own are handed on as they are, not copied.
        is_one = bool(gradient == 1)
        saved = ctx.saved_tensors
        return (*(g if g is None or is_one else g * gradient for g in saved), None)


def _turned_into_gradient(
    logits: Sequence[Tensor], function: Function, columns: slice, *, wanted: bool
) -> Float[Tensor, "3"]:
    """The values of a chunk; its own logits become the gradient of the first one, in place."""
    num_tokens, vocabulary = logits[0].shape[1:]
    length = tokens_of_piece(num_tokens, vocabulary, on_cpu=logits[0].is_cpu)
    values = []
    for piece in spans(0, num_tokens, length):
        own, *others = [each[:, piece] for each in logits]
        at = slice(columns.start + piece.start, columns.start + piece.stop)
        leaf = own.detach().requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            value, beside = function([leaf, *others], at)
        values.append(torch.cat([value.detach()[None], beside]))
        if wanted:
            own.copy_(torch.autograd.grad(value, leaf)[0])
    return torch.stack(values).sum(0)


class _Gradients:
    """The gradients of hidden states, matrix and bias while they are being added up."""

    def __init__(self, head: Head, wanted: Sequence[bool]) -> None:
        self.head = head
        self.hidden, self.weight, self.bias = (
            torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and wants else None
            for tensor, wants in zip(head, wanted, strict=True)
        )

    def add(self, to_logits_nV: Float[Tensor, "n V"], product: Head, columns: slice) -> None:
        """Multiply the gradient of a chunk's logits into those of what they were made of."""
        if self.hidden is not None:
            self.hidden[:, columns] = to_logits_nV @ product.weight_VD
        if self.weight is not None:
            hidden_nD = product.hidden_BTD[0, columns]
            if hidden_nD.dtype == torch.float32:  # in place: no second matrix of this size
                self.weight.addmm_(to_logits_nV.T, hidden_nD)
            else:
                self.weight += to_logits_nV.T @ hidden_nD
        if self.bias is not None:
            self.bias += to_logits_nV.sum(0, dtype=torch.float32)

    def typed(self) -> list[Tensor | None]:
        """The gradients in the precision of what they belong to."""
        return [
            None if gradient is None or tensor is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(
                (self.hidden, self.weight, self.bias), self.head, strict=True
            )
        ]
