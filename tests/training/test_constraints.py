"""Training inside a subspace or a mask, judged on a regression whose answers are known."""

import copy

import pytest
import torch
from torch.nn import Linear, Module, ModuleList, Parameter

from offaxis.linalg.confinement import Subspace, leading_subspace, random_subspace
from offaxis.training.confinement import Confinement
from offaxis.training.constraints.masks import MaskConstraint
from offaxis.training.constraints.rounding import StochasticRounding
from offaxis.training.constraints.subspace import FORMS, SubspaceConstraint
from offaxis.training.updates import Update, layer_matrices

ROWS, COLS, RANK, STEPS = 64, 48, 4, 100
NAME = "layers.0.weight"


class Toy(Module):
    """A regression whose one matrix is a layer's, as names of models have it."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = ModuleList([Linear(COLS, ROWS, bias=False)])
        W = torch.randn(ROWS, COLS, generator=generator) / COLS**0.5
        self.layers[0].weight = Parameter(W.to(dtype))
        self.x = torch.randn(256, COLS, generator=generator).to(dtype)
        truth = torch.randn(ROWS, COLS, generator=generator).to(dtype)
        self.y = self.x @ truth.T

    def loss(self, W=None):
        W = self.layers[0].weight if W is None else W
        return (self.x @ W.T - self.y).square().mean()


def adamw(weights, lr=1e-2, decay=0.0):
    return torch.optim.AdamW(weights, lr=lr, weight_decay=decay)


def sgd(weights, lr=1.0, decay=0.0):
    return torch.optim.SGD(weights, lr=lr, momentum=0.9, weight_decay=decay)


def basis(seed=1, rank=RANK):
    return random_subspace(ROWS, COLS, rank, torch.Generator().manual_seed(seed))


def confined(toy, form, *, sides="right", norms=(), of=None):
    update = Update(layer_matrices(toy))
    both = form == "core" or sides == "both"
    bases = {NAME: of or basis()}
    constraint = SubspaceConstraint(update, bases, form, is_two_sided=both, norms=norms)
    return Confinement(toy, update, [constraint], constraint.held())


def stepped(toy, confinement, make, steps=STEPS, optimizer=None, **settings):
    """Train, and return the optimizer and the measures of every step."""
    if optimizer is None:
        optimizer = make([confinement.held.get(NAME, toy.layers[0].weight)], **settings)
        confinement.attach(optimizer)
    measures = []
    for _ in range(steps):
        toy.zero_grad()
        toy.loss().backward()
        optimizer.step()
        measures.append(confinement.measures())
    return optimizer, measures


def outside(toy, start, U=None, V=None):
    """The share of the update's energy outside the subspace, and its rank, in float64."""
    D = (toy.layers[0].weight.detach().double() - start.double()).clone()
    inside = D
    if V is not None:
        Q = torch.linalg.qr(V.double()).Q
        inside = inside @ Q @ Q.T
    if U is not None:
        Q = torch.linalg.qr(U.double()).Q
        inside = Q @ Q.T @ inside
    energy = float((D - inside).square().sum() / D.square().sum())
    values = torch.linalg.svdvals(D)
    return energy, int((values > 1e-4 * values[0]).sum())


@pytest.mark.parametrize(
    ("form", "sides", "make", "leaks"),
    [
        ("gradient", "right", sgd, False),
        ("gradient", "right", adamw, True),  # the published form is not what it is taken for
        ("right", "right", adamw, False),
        ("right", "right", sgd, False),
        ("core", "both", adamw, False),
        ("core", "both", sgd, False),
        ("project", "right", adamw, False),
        ("project", "both", adamw, False),
        ("none", "both", adamw, True),
    ],
)
def test_which_forms_keep_an_update_in_its_subspace(form, sides, make, leaks):
    toy, (U, V) = Toy(), basis()
    start = toy.layers[0].weight.detach().clone()
    _, measures = stepped(toy, confined(toy, form, sides=sides), make)
    energy, rank = outside(toy, start, U if sides == "both" else None, V)
    logged = measures[-1]["leakage"]
    assert measures[-1]["update_norm"] > 1
    if leaks:
        assert energy > 0.2
        assert rank == COLS
        assert logged == pytest.approx(energy**0.5, rel=1e-4)
    else:
        assert logged < 1e-5
        assert energy < 1e-10
        assert rank == RANK


def test_weights_in_bfloat16_round_the_constraint_away():
    leakage = {}
    for dtype in (torch.float32, torch.bfloat16):
        toy = Toy(dtype)
        _, measures = stepped(toy, confined(toy, "project"), adamw, lr=3e-4)
        leakage[dtype] = measures[-1]["leakage"]
    assert leakage[torch.float32] < 1e-5
    assert leakage[torch.bfloat16] > 0.02


def test_the_core_is_trained_as_the_module_it_stands_for():
    """W0 + U M V' with M a parameter, autograd through it, and torch's AdamW: the truth."""
    toy, (U, V) = Toy(), basis()
    W0 = toy.layers[0].weight.detach().clone()
    M = Parameter(torch.zeros(RANK, RANK))
    reference = adamw([M], decay=0.1)
    for _ in range(STEPS):
        reference.zero_grad()
        toy.loss(W0 + U @ M @ V.T).backward()
        reference.step()
    optimizer, _ = stepped(toy, confined(toy, "core"), adamw, decay=0.1)
    W = toy.layers[0].weight.detach()
    assert float((W - W0).norm()) > 1
    torch.testing.assert_close(W, W0 + U @ M.detach() @ V.T, rtol=1e-6, atol=1e-6)
    state = optimizer.state_dict()["state"][0]
    assert {key: tensor.numel() for key, tensor in state.items()} == {
        "step": 1,
        "exp_avg": RANK**2,
        "exp_avg_sq": RANK**2,
    }


def test_the_right_side_is_trained_as_the_module_it_stands_for():
    toy, (_, V) = Toy(), basis()
    W0 = toy.layers[0].weight.detach().clone()
    B = Parameter(torch.zeros(ROWS, RANK))
    reference = sgd([B])
    for _ in range(STEPS):
        reference.zero_grad()
        toy.loss(W0 + B @ V.T).backward()
        reference.step()
    optimizer, _ = stepped(toy, confined(toy, "right"), sgd)
    W = toy.layers[0].weight.detach()
    torch.testing.assert_close(W, W0 + B.detach() @ V.T, rtol=1e-5, atol=1e-5)
    assert optimizer.state_dict()["state"][0]["momentum_buffer"].numel() == ROWS * RANK


@pytest.mark.parametrize(
    ("form", "numbers"),
    [("core", RANK**2), ("right", ROWS * RANK), ("gradient", ROWS * COLS), ("none", ROWS * COLS)],
)
def test_trainable_numbers_are_what_the_optimizer_holds(form, numbers):
    toy = Toy()
    confinement = confined(toy, form)
    assert confinement.trainable_numbers == numbers
    assert sum(w.numel() for w in confinement.held.values()) == numbers


@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_update_is_scaled_to_the_norm_of_another_run(form):
    norms = [0.0, *(0.03 * step for step in range(1, STEPS))]
    toy = Toy()
    _, measures = stepped(toy, confined(toy, form, norms=norms), adamw)
    for step, target in enumerate(norms):
        assert measures[step]["update_norm"] == pytest.approx(target, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_resumed_constraint_goes_on_bit_for_bit(form):
    norms = [0.05 * step for step in range(1, 11)]
    whole = Toy()
    stepped(whole, confined(whole, form, norms=norms), adamw, 10)

    first = Toy()
    confinement = confined(first, form, norms=norms)
    optimizer, _ = stepped(first, confinement, adamw, 5)
    saved = copy.deepcopy(
        (first.state_dict(), optimizer.state_dict(), confinement.state_dict()),
    )

    second = Toy()
    confinement = confined(second, form, norms=norms)
    optimizer = adamw([confinement.held[NAME]])
    confinement.attach(optimizer)
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    confinement.load_state_dict(saved[2])
    stepped(second, confinement, adamw, 5, optimizer=optimizer)
    assert torch.equal(second.layers[0].weight, whole.layers[0].weight)


def test_a_rotated_basis_is_another_problem_for_adamw_and_the_same_for_sgd():
    """Why the basis has a rule of its own and is recorded."""
    U, V = basis()
    R = torch.linalg.qr(torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(3))).Q
    ends = {}
    for make in (sgd, adamw):
        for turned in (Subspace(U, V), Subspace(U @ R, V @ R)):
            toy = Toy()
            stepped(toy, confined(toy, "core", of=turned), make, 10)
            ends.setdefault(make, []).append(toy.layers[0].weight.detach())
    apart = {make: float((a - b).norm() / a.norm()) for make, (a, b) in ends.items()}
    assert apart[sgd] < 1e-6
    assert apart[adamw] > 1e-4


def test_the_basis_is_the_leading_subspace_whatever_the_signs():
    generator = torch.Generator().manual_seed(2)
    D = torch.randn(ROWS, COLS, generator=generator, dtype=torch.float64)
    U, V = leading_subspace(D, RANK, "D")
    P, s, Qh = torch.linalg.svd(D)
    assert float((U.double().T @ P[:, :RANK]).abs().diagonal().min()) > 1 - 1e-6
    assert float((V.double().T @ Qh[:RANK].T).abs().diagonal().min()) > 1 - 1e-6
    torch.testing.assert_close((U.T.double() @ D @ V.double()).diagonal(), s[:RANK])
    assert bool((V.gather(0, V.abs().argmax(0, keepdim=True)) > 0).all())
    again = leading_subspace(-D, RANK, "D")
    torch.testing.assert_close(again.V, V, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.U, -U, atol=1e-6, rtol=0)


def test_masked_coordinates_stay_bit_for_bit_under_weight_decay():
    toy = Toy()
    mask = torch.rand(ROWS, COLS, generator=torch.Generator().manual_seed(0)) < 0.3
    start = toy.layers[0].weight.detach().clone()
    update = Update(layer_matrices(toy))
    confinement = Confinement(toy, update, [MaskConstraint(update, {NAME: mask})])
    optimizer, _ = stepped(toy, confinement, adamw, 20, decay=0.5)
    end = toy.layers[0].weight.detach()
    assert torch.equal(end.view(torch.int32)[~mask], start.view(torch.int32)[~mask])
    assert bool((end != start)[mask].all())
    assert not bool(optimizer.state_dict()["state"][0]["exp_avg"][~mask].any())


def test_bfloat16_weights_lose_small_steps_and_stochastic_rounding_keeps_them_on_average():
    steps, lr = 50, 1e-5
    exact, nearest, stochastic = Toy(), Toy(torch.bfloat16), Toy(torch.bfloat16)
    ends = {}
    for name, toy in {"exact": exact, "nearest": nearest, "stochastic": stochastic}.items():
        confinement = Confinement(toy)
        optimizer = adamw([toy.layers[0].weight], lr=lr)
        confinement.attach(optimizer, rounding_seed=0 if name == "stochastic" else None)
        start = toy.layers[0].weight.detach().float().clone()
        stepped(toy, confinement, adamw, steps, optimizer=optimizer)
        ends[name] = toy.layers[0].weight.detach().float() - start
        dtypes = {s.dtype for k, s in optimizer.state_dict()["state"][0].items() if k != "step"}
        assert dtypes == {torch.float32 if name == "exact" else torch.bfloat16}
    still = {name: float((D == 0).double().mean()) for name, D in ends.items()}
    assert still["exact"] == 0
    assert still["nearest"] > 0.9
    # Adam moves each weight by about lr a step, along the sign of its gradient.
    sign = ends["exact"].sign()
    mean = float((ends["stochastic"] * sign).mean()), float(ends["exact"].abs().mean())
    deviation = float((ends["stochastic"] * sign).std()) / (ROWS * COLS) ** 0.5
    assert abs(mean[0] - mean[1]) < 5 * deviation
    assert mean[1] > 10 * deviation
    assert float((ends["nearest"] * sign).mean()) < 0.5 * mean[1]


@pytest.mark.parametrize("make", [adamw, sgd])
def test_from_zero_an_optimizer_makes_the_step_it_makes_from_the_weights(make):
    """Weight decay included; in float32, where both can be compared."""
    toy, other = Toy(), Toy()
    stepped(toy, Confinement(toy), make, 3, decay=0.1)
    optimizer = make([other.layers[0].weight], decay=0.1)
    rounding = StochasticRounding(optimizer, seed=0)
    for _ in range(3):
        other.zero_grad()
        other.loss().backward()
        with torch.no_grad():
            rounding.before_step()
            [(weight, before, kept)] = rounding._before
            optimizer.step()
            weight.copy_(kept * before + weight)
            rounding._before.clear()
    torch.testing.assert_close(other.layers[0].weight, toy.layers[0].weight, rtol=1e-5, atol=1e-6)
