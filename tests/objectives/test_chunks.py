"""The loss in chunks against autograd through whole logits, and what it holds meanwhile."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from offaxis.errors import NumericsError
from offaxis.objectives import chunks
from offaxis.objectives.base import Head, Streams, TokenBatch
from offaxis.objectives.divergences import Divergence, reverse_kl
from offaxis.objectives.loss import token_facts, token_loss
from offaxis.objectives.memory import predicted_peak_bytes

B, T, D, V = 3, 9, 6, 40


def drawn(seed=0, bias=True):
    g = torch.Generator().manual_seed(seed)

    def head():
        b = torch.randn(V, generator=g) if bias else None
        return Head(torch.randn(B, T, D, generator=g), torch.randn(V, D, generator=g), b)

    student, teacher, reference = head(), head(), head()
    tokens = torch.randint(V, (B, T), generator=g)
    mask = torch.rand(B, T, generator=g) < 0.7
    log_p = of_token(student.logits().log_softmax(-1), tokens)
    sampled = log_p + 0.3 * torch.randn(B, T, generator=g)
    batch = TokenBatch(tokens, mask, None, sampled, teacher_logprobs_BT=log_p - 0.2)
    weights = torch.randn(5, B, T, generator=g)
    streams = Streams(*weights, divergence=Divergence("jsd", 0.3))
    return student, teacher, reference, batch, streams


def of_token(log_p, tokens):
    return log_p.gather(-1, tokens[..., None])[..., 0]


def whole(heads, batch, streams, num_tokens):
    """The definition, written out over whole logits."""
    log_p, log_q, log_r = (h.logits().log_softmax(-1) for h in heads)
    of = of_token(log_p, batch.tokens_BT)
    ratio = (of - batch.sampled_logprobs_BT).exp()
    gain = torch.minimum(
        ratio * streams.advantages_BT, ratio.clamp(0.8, 1.28) * streams.advantages_BT
    )
    terms = (
        -streams.cross_entropy_BT * of
        + streams.divergence_BT * streams.divergence(log_p, log_q)
        - gain
        + streams.estimate_BT * 0.5 * (of - batch.teacher_logprobs_BT) ** 2
        + streams.reference_BT * reverse_kl(log_p, log_r)
    )
    return terms[batch.mask_BT].sum() / num_tokens


def gradients(value, head):
    return torch.autograd.grad(value, [tensor for tensor in head if tensor is not None])


def learning(head):
    return Head(*(None if t is None else t.clone().requires_grad_() for t in head))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 1000])
@pytest.mark.parametrize("piece", [1, 3 * V, 2**21])
def test_value_and_gradients_are_those_of_whole_logits(monkeypatch, chunk_tokens, bias, piece):
    monkeypatch.setattr(chunks, "_PIECE", piece)
    student, teacher, reference, batch, streams = drawn(bias=bias)
    one, other = learning(student), learning(student)
    expected = whole((one, teacher, reference), batch, streams, 7)
    loss = token_loss(
        other,
        batch,
        streams,
        num_tokens=7,
        teacher=teacher,
        reference=reference,
        chunk_tokens=chunk_tokens,
    )
    torch.testing.assert_close(loss.value, expected)
    for found, truth in zip(gradients(loss.value, other), gradients(expected, one), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


def test_a_factor_of_the_loss_is_a_factor_of_the_gradient_and_the_graph_may_be_kept():
    student, teacher, reference, batch, streams = drawn()
    head = learning(student)
    loss = token_loss(
        head, batch, streams, num_tokens=7, teacher=teacher, reference=reference
    ).value
    plain = torch.autograd.grad(loss, list(head), retain_graph=True)
    plain = [g.clone() for g in plain]
    scaled = torch.autograd.grad(3 * loss, list(head), retain_graph=True)
    again = torch.autograd.grad(loss, list(head))
    for one, three, same in zip(plain, scaled, again, strict=True):
        torch.testing.assert_close(three, 3 * one)
        assert torch.equal(one, same)


def test_only_what_learns_gets_a_gradient():
    student, *_, batch, streams = drawn()
    student.hidden_BTD.requires_grad_()
    plain = Streams(cross_entropy_BT=streams.cross_entropy_BT)
    token_loss(student, batch, plain, num_tokens=7).value.backward()
    assert student.hidden_BTD.grad.abs().max() > 0
    assert student.weight_VD.grad is None
    with torch.no_grad():
        assert not token_loss(student, batch, plain, num_tokens=7).value.requires_grad


@pytest.mark.parametrize("chunk_tokens", [2, 1000])
def test_autocast_rounds_the_products_as_a_model_s_own_head(chunk_tokens):
    student, *_, batch, streams = drawn()
    plain = Streams(cross_entropy_BT=streams.cross_entropy_BT)
    one, other = learning(student), learning(student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = token_loss(other, batch, plain, num_tokens=7, chunk_tokens=chunk_tokens).value
        log_p = one.logits().float().log_softmax(-1)
    of = of_token(log_p, batch.tokens_BT)
    expected = -(plain.cross_entropy_BT * of)[batch.mask_BT].sum() / 7
    torch.testing.assert_close(loss, expected)
    for found, truth in zip(gradients(loss, other), gradients(expected, one), strict=True):
        assert found.dtype == truth.dtype == torch.float32
        torch.testing.assert_close(found, truth, rtol=2e-2, atol=2e-2)


def test_weights_in_bf16_get_gradients_in_bf16_added_up_in_float32():
    student, *_, batch, streams = drawn()
    plain = Streams(cross_entropy_BT=streams.cross_entropy_BT)
    low = learning(Head(*(tensor.bfloat16() for tensor in student)))
    found = gradients(token_loss(low, batch, plain, num_tokens=7, chunk_tokens=1).value, low)
    same = learning(Head(*(tensor.bfloat16() for tensor in student)))
    once = gradients(token_loss(same, batch, plain, num_tokens=7).value, same)
    for one, other in zip(found, once, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-2, atol=1e-3)


def test_no_token_is_no_loss_and_no_gradient():
    student, teacher, reference, batch, streams = drawn()
    none = replace(batch, mask_BT=torch.zeros_like(batch.mask_BT))
    head = learning(student)
    loss = token_loss(head, none, streams, num_tokens=1, teacher=teacher, reference=reference)
    loss.value.backward()
    assert loss.value == 0
    assert head.weight_VD.grad.abs().max() == 0
    facts = token_facts(student, none, teacher=teacher)
    assert facts.logprobs_BT.shape == facts.divergence_BT.shape == (B, T)


@pytest.mark.parametrize("chunk_tokens", [2, None])
def test_facts_are_what_whole_logits_say(chunk_tokens):
    student, teacher, _, batch, _ = drawn()
    facts = token_facts(student, batch, teacher=teacher, chunk_tokens=chunk_tokens)
    log_p, log_q = student.logits().log_softmax(-1), teacher.logits().log_softmax(-1)
    expected = {
        "logprobs_BT": of_token(log_p, batch.tokens_BT),
        "teacher_logprobs_BT": of_token(log_q, batch.tokens_BT),
        "entropy_BT": torch.distributions.Categorical(logits=log_p).entropy(),
        "divergence_BT": reverse_kl(log_p, log_q),
    }
    for name, truth in expected.items():
        found = getattr(facts, name)
        torch.testing.assert_close(found, truth.where(batch.mask_BT, 0.0), rtol=1e-4, atol=1e-5)
    alone = token_facts(student, batch)
    torch.testing.assert_close(alone.logprobs_BT, facts.logprobs_BT)
    assert torch.equal(alone.teacher_logprobs_BT, batch.teacher_logprobs_BT)
    assert alone.divergence_BT is None


def test_importance_weighs_all_terms_and_the_ratio_is_to_the_student_itself():
    student, teacher, reference, batch, streams = drawn()
    facts = token_facts(student, batch)
    importance = torch.rand(B, T, generator=torch.Generator().manual_seed(1))
    stale = replace(facts, importance_BT=importance, proximal_logprobs_BT=facts.logprobs_BT)
    own = replace(batch, sampled_logprobs_BT=facts.logprobs_BT)
    arguments = {"num_tokens": 7, "teacher": teacher, "reference": reference}
    found = token_loss(student, stale, streams, **arguments).value
    weighed = streams.map(lambda stream: stream * importance)
    torch.testing.assert_close(found, token_loss(student, own, weighed, **arguments).value)


def test_parts_of_a_batch_add_up_to_the_whole():
    student, teacher, reference, batch, streams = drawn()

    def value(rows):
        heads = [h._replace(hidden_BTD=h.hidden_BTD[rows]) for h in (student, teacher, reference)]
        return token_loss(
            heads[0],
            batch.part(rows),
            streams.part(rows),
            num_tokens=7,
            teacher=heads[1],
            reference=heads[2],
        ).value

    parts = value(slice(0, 1)) + value(slice(1, 3))
    torch.testing.assert_close(parts, value(slice(0, 3)))


def test_padded_vocabularies_are_narrowed_and_others_refused():
    student, teacher, _, batch, _ = drawn()
    padded = Head(
        teacher.hidden_BTD, torch.cat([teacher.weight_VD, torch.ones(3, D)]), torch.ones(V + 3)
    )
    streams = Streams(divergence_BT=torch.ones(B, T))
    with pytest.raises(NumericsError, match="40 entries"):
        token_loss(student, batch, streams, num_tokens=7, teacher=padded)
    narrow = padded.narrowed(V)
    assert torch.equal(narrow.weight_VD, teacher.weight_VD)
    assert narrow.narrowed(V) is narrow
    assert token_loss(student, batch, streams, num_tokens=7, teacher=narrow).value.isfinite()


def held_bytes(num_tokens, vocabulary, hidden):
    """The peak of a process above its start during a reverse KL, forward and backward."""

    def status(name):
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    def backward(num_tokens, vocabulary, hidden):
        student, teacher = (
            Head(torch.randn(1, num_tokens, hidden), torch.randn(vocabulary, hidden))
            for _ in range(2)
        )
        student = learning(student)
        batch = TokenBatch(torch.zeros(1, num_tokens).long(), torch.ones(1, num_tokens).bool())
        streams = Streams(divergence_BT=torch.ones(1, num_tokens))
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        start = status("VmRSS")
        token_loss(student, batch, streams, num_tokens=num_tokens, teacher=teacher).value.backward()
        return status("VmHWM") - start

    torch.set_num_threads(1)
    backward(64, 1000, hidden)  # what is loaded at the first call is nothing of the loss
    return backward(num_tokens, vocabulary, hidden)


def test_the_predicted_peak_is_what_a_process_holds():
    shape = (320, 100_000, 128)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        held = pool.submit(held_bytes, *shape).result()
    assert predicted_peak_bytes(*shape) == pytest.approx(held, rel=0.2)


def test_the_predicted_peak_grows_with_what_is_held_alone():
    def of(**changes):
        return predicted_peak_bytes(4096, 151_936, 1024, **changes)

    # A hundred times the tokens hold their hidden states more, and no logits.
    more = predicted_peak_bytes(409_600, 151_936, 1024)
    assert more - of() == (409_600 - 4096) * 1024 * 12
    assert of(num_heads=1) < of() < of(num_heads=3)
    assert of() - of(is_trained=False) == 151_936 * 1024 * 4
    assert of(on_cpu=False) > of()
