"""Memory and time of the loss over a whole vocabulary, against the form that makes all logits.

Reverse KL between two models' last layers, forward and backward, in float32 on one thread. Each
measurement is a fresh process, both forms in turn. Both return the gradients of hidden states and
matrix, so these are no extra of either and are left out of the memory.
"""

import os
import time

import torch

from memory import alone, forget_peak, status
from offaxis.objectives.base import Head, Streams, TokenBatch
from offaxis.objectives.divergences import reverse_kl
from offaxis.objectives.loss import token_loss
from offaxis.objectives.memory import predicted_peak_bytes
from offaxis.workers import GIVES_BACK
from rows import Row, row

TOKENS, VOCABULARY = 1024, 151_936
REPEATS = 3

Measured = tuple[float, float, float]


def of_whole_vocabulary(width: int) -> list[Row]:
    """Rows for one width of the hidden state."""
    for name in GIVES_BACK:  # training does without: it would pay in time
        os.environ.pop(name, None)
    pairs = [(alone(measured, width, False), alone(measured, width, True)) for _ in range(REPEATS)]
    case = f"{TOKENS} x {VOCABULARY}, hidden {width}"
    against = "full logits"
    memory = [ours[1] / full[1] for full, ours in pairs]
    seconds = [ours[0] / full[0] for full, ours in pairs]
    predicted = predicted_peak_bytes(TOKENS, VOCABULARY, width)
    return [
        row("extra memory, loss in chunks", against, case, memory, "<= 0.15"),
        row(
            "CPU time, loss in chunks",
            against,
            case,
            seconds,
            "<= 1.2",
            seconds=[ours[0] for _, ours in pairs],
        ),
        row(
            "predicted peak, gradients included",
            "measured peak",
            case,
            [predicted / (ours[1] + ours[2]) for _, ours in pairs],
        ),
    ]


def measured(width: int, in_chunks: bool) -> Measured:
    """CPU seconds, peak bytes above start without the gradients, and the gradients' bytes."""
    torch.set_num_threads(1)
    loss = in_chunks_loss if in_chunks else full_loss
    loss(*heads(64, 1024, width)).backward()  # what is loaded at the first call is no part of it
    student, teacher = heads(TOKENS, VOCABULARY, width)
    forget_peak()
    start, begun = status("VmRSS"), time.process_time()
    loss(student, teacher).backward()
    seconds = time.process_time() - begun
    hidden, weight = student.hidden_BTD.grad, student.weight_VD.grad
    assert hidden is not None
    assert weight is not None
    gradients = hidden.nbytes + weight.nbytes
    return seconds, status("VmHWM") - start - gradients, gradients


def heads(tokens: int, vocabulary: int, width: int) -> tuple[Head, Head]:
    """A student's last layer that learns, and a teacher's."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    student, teacher = (
        Head(drawn(1, tokens, width), 2 * width**-0.5 * drawn(vocabulary, width)) for _ in range(2)
    )
    return Head(student.hidden_BTD.requires_grad_(), student.weight_VD.requires_grad_()), teacher


def full_loss(student: Head, teacher: Head) -> torch.Tensor:
    """The mean over tokens, from the logits of all of them."""
    with torch.no_grad():
        log_q = teacher.logits().log_softmax(-1)
    return reverse_kl(student.logits().log_softmax(-1), log_q).mean()


def in_chunks_loss(student: Head, teacher: Head) -> torch.Tensor:
    """The same by the loss of the project, which gives the entropy, too."""
    shape = student.hidden_BTD.shape[:2]
    batch = TokenBatch(torch.zeros(shape).long(), torch.ones(shape).bool())
    streams = Streams(divergence_BT=torch.ones(shape))
    return token_loss(student, batch, streams, num_tokens=shape[1], teacher=teacher).value
