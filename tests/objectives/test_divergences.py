"""Divergences and estimates against autograd of the exact divergence, in float64."""

import math

import pytest
import torch

from offaxis.objectives.base import Head, TokenBatch
from offaxis.objectives.divergences import Divergence, forward_kl, jsd, reverse_kl
from offaxis.objectives.forward_kl_by_k3 import forward_kl_by_k3
from offaxis.objectives.loss import token_facts, token_loss
from offaxis.objectives.reverse_kl_by_k1 import reverse_kl_by_k1
from offaxis.objectives.reverse_kl_by_k2 import reverse_kl_by_k2

V = 12


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def exact(divergence, student, teacher):
    """The gradient of a divergence with respect to the student's logits."""
    value = divergence(student.log_softmax(-1)[None, None], teacher.log_softmax(-1)[None, None])
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return gradient


def expected(objective, student, teacher):
    """The mean gradient of an objective over the student's tokens, each with its probability."""
    logits = student.detach().float().requires_grad_()
    rows = Head(logits.expand(V, 1, V), torch.eye(V))
    others = Head(teacher.float().expand(V, 1, V), torch.eye(V))
    tokens = torch.arange(V)[:, None]
    sampled = logits.detach().log_softmax(-1)[:, None]
    batch = TokenBatch(tokens, torch.ones(V, 1, dtype=torch.bool), None, sampled)
    batch = token_facts(rows, batch, teacher=others)
    probability = logits.detach().softmax(-1)[:, None]
    streams = objective(batch).map(lambda stream: stream * probability)
    loss = token_loss(rows, batch, streams, num_tokens=1)
    (gradient,) = torch.autograd.grad(loss.value, logits)
    return gradient.double()


@pytest.mark.parametrize(
    ("objective", "divergence"),
    [
        (reverse_kl_by_k1, reverse_kl),
        (reverse_kl_by_k2, reverse_kl),
        (forward_kl_by_k3, forward_kl),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_expected_gradient_of_a_sampled_form_is_the_one_it_is_named_by(
    objective, divergence, seed
):
    student, teacher = drawn(V, seed=seed)
    other = {reverse_kl: forward_kl, forward_kl: reverse_kl}[divergence]
    found = expected(objective, student, teacher)
    torch.testing.assert_close(found, exact(divergence, student, teacher), rtol=1e-4, atol=1e-6)
    assert (found - exact(other, student, teacher)).norm() > 0.1 * found.norm()


def test_the_log_ratio_differentiated_as_a_loss_would_teach_nothing():
    student, teacher = drawn(V)
    log_p = student.log_softmax(-1)
    k1 = (log_p.exp().detach() * (log_p - teacher.log_softmax(-1))).sum()
    assert torch.autograd.grad(k1, student)[0].abs().max() < 1e-15


def on_vocabulary(student, teacher):
    return student.log_softmax(-1), teacher.log_softmax(-1)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_is_that_of_the_mixture_in_which_beta_weighs_the_teacher(beta):
    p, q = on_vocabulary(*drawn(2, 3, V))
    m = ((1 - beta) * p.exp() + beta * q.exp()).log()
    kl = torch.nn.functional.kl_div
    to_teacher, to_student = (
        kl(m, each, reduction="none", log_target=True).sum(-1) for each in (q, p)
    )
    torch.testing.assert_close(jsd(p, q, beta), beta * to_teacher + (1 - beta) * to_student)


def test_jsd_tends_to_the_two_kls():
    p, q = on_vocabulary(*drawn(2, 3, V))
    tiny = 1e-6
    torch.testing.assert_close(jsd(p, q, tiny) / tiny, forward_kl(p, q), rtol=1e-4, atol=0)
    torch.testing.assert_close(jsd(p, q, 1 - tiny) / tiny, reverse_kl(p, q), rtol=1e-4, atol=0)
    assert torch.equal(jsd(p, q, 0.0), forward_kl(p, q))
    assert torch.equal(jsd(p, q, 1.0), reverse_kl(p, q))
    torch.testing.assert_close(jsd(p, q, 0.5), jsd(q, p, 0.5))
    assert float(jsd(p, q, 0.5).detach().max()) < math.log(2)


@pytest.mark.parametrize("tail", ["renormalised", "bucket"])
@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl", "jsd"])
def test_a_support_of_the_whole_vocabulary_is_the_full_divergence(name, tail):
    p, q = on_vocabulary(*drawn(2, 3, V))
    whole = Divergence(name, support="student_top_k", k=V, tail=tail)
    torch.testing.assert_close(whole(p, q), Divergence(name)(p, q))


def by_hand(p, q, k, tail):
    """Reverse KL on the student's k likeliest entries of one position, by lists."""
    entries = sorted(range(V), key=lambda i: -p[i])[:k]
    ps, qs = [p[i] for i in entries], [q[i] for i in entries]
    if tail == "bucket":
        ps, qs = [*ps, 1 - sum(ps)], [*qs, 1 - sum(qs)]
    ps, qs = [x / sum(ps) for x in ps], [x / sum(qs) for x in qs]
    return sum(a * math.log(a / b) for a, b in zip(ps, qs, strict=True))


@pytest.mark.parametrize("tail", ["renormalised", "bucket"])
@pytest.mark.parametrize("k", [1, 4, V - 1])
def test_the_student_s_likeliest_entries_are_renormalised_or_get_a_bucket(k, tail):
    p, q = on_vocabulary(*drawn(1, 1, V))
    found = Divergence(support="student_top_k", k=k, tail=tail)(p, q)
    by_lists = by_hand(p.exp().flatten().tolist(), q.exp().flatten().tolist(), k, tail)
    assert found.item() == pytest.approx(by_lists, rel=1e-9, abs=1e-12)


def test_the_bucket_holds_mass_that_one_minus_the_rest_cannot_resolve():
    logits = torch.tensor([[[60.0, 0.0, 0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    p, q = logits.log_softmax(-1), torch.zeros(1, 1, 4, dtype=torch.float64).log_softmax(-1)
    found = Divergence(support="student_top_k", k=1, tail="bucket")(p, q)
    torch.testing.assert_close(found, reverse_kl(p, q), rtol=1e-12, atol=0)
    assert torch.autograd.grad(found.sum(), logits)[0].isfinite().all()


def cosine(found, truth):
    return float(torch.nn.functional.cosine_similarity(found, truth, dim=0))


def test_the_student_s_support_keeps_the_direction_and_the_teacher_s_loses_it():
    """Zipf-like teacher, noisy student: the gradient from 16 of 2,000 entries."""
    generator = torch.Generator().manual_seed(0)
    teacher = -1.5 * torch.arange(1, 2001, dtype=torch.float64).log()
    student = teacher + 2 * torch.randn(2000, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    truth = exact(reverse_kl, student, teacher)
    own = exact(Divergence(support="student_top_k", k=16), student, teacher)
    entries = teacher.topk(16).indices

    def on_teachers(p, q):
        return reverse_kl(p[..., entries].log_softmax(-1), q[..., entries].log_softmax(-1))

    assert cosine(own, truth) > 0.9
    assert cosine(exact(on_teachers, student, teacher), truth) < cosine(own, truth) - 0.1


def test_the_temperature_divides_the_logits_of_both():
    student, teacher = drawn(2, 3, V)
    found = Divergence(temperature=2.0)(*on_vocabulary(student, teacher))
    torch.testing.assert_close(found, reverse_kl(*on_vocabulary(student / 2, teacher / 2)))
