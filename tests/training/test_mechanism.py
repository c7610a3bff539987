"""Gradients of rollouts and tokens against autograd, and the mechanism of a finished run."""

from dataclasses import replace

import pytest
import torch

from offaxis.errors import CheckpointError, RecipeError, UsageError
from offaxis.linalg.moments import moment_of
from offaxis.mechanism import Choice, mechanism_of
from offaxis.mechanism.conditions import arms_of
from offaxis.mechanism.gradients import added, moments_of, recorded
from offaxis.objectives.base import Streams
from offaxis.objectives.loss import token_loss
from offaxis.recipe import Precision
from offaxis.tasks.chain import chain13
from offaxis.training import train
from offaxis.training.losses import LossModels
from offaxis.training.models import new_model, task_tokenizer
from offaxis.training.rollouts import complete

NAMES = ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.down_proj.weight"]


@pytest.fixture(scope="module")
def models(base):
    """A student and a teacher in float64, spread enough that they differ."""
    config = base().start.config.model_copy(update={"init_std": 0.3})
    return [
        new_model(
            config.model_copy(update={"init_seed": seed}), task_tokenizer(chain13), Precision()
        ).eval()
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def weighed(models):
    """Rollouts of the student, and streams of unlike weights in two terms of the loss."""
    prompts = [chain13.problem(seed=0, index=i).prompt for i in range(4)]
    found = complete(
        models[0], task_tokenizer(chain13), prompts, max_tokens=4, temperature=1.0, per_prompt=2
    )
    for model in models:
        model.double()
    g = torch.Generator().manual_seed(0)
    shape = found.rows.batch.mask_BT.shape
    weights, advantages = (torch.rand(shape, generator=g) for _ in range(2))
    streams = Streams(divergence_BT=weights, cross_entropy_BT=advantages)
    return replace(found.rows, streams=streams)


def by_autograd(models, rows, name, mask_BT):
    """The gradient of one weight, from a forward pass and a loss of its own."""
    student, teacher = models
    held = LossModels(teacher, None, None)
    heads = held.heads(student, rows)
    batch = replace(rows.batch, mask_BT=mask_BT)
    loss = token_loss(
        heads["student"], batch, rows.streams, num_tokens=1.0, teacher=heads["teacher"]
    )
    return torch.autograd.grad(loss.value, student.get_parameter(name))[0]


def test_every_rollout_and_every_token_has_the_gradient_that_autograd_gives_it(models, weighed):
    held = LossModels(models[1], None, None)
    with recorded(models[0], weighed, NAMES, held) as tape:
        rollouts = tape.rollouts(weighed.streams)
        tokens = list(tape.tokens(weighed.streams))
    mask_BT = weighed.batch.mask_BT
    seen = 0
    for name in NAMES:
        found = rollouts[name].gradients()
        for b in range(len(mask_BT)):
            alone = torch.zeros_like(mask_BT)
            alone[b] = mask_BT[b]
            true = by_autograd(models, weighed, name, alone)
            torch.testing.assert_close(found[b], true, rtol=1e-6, atol=1e-9)
        each = torch.cat([gradients[name].gradients() for gradients in tokens])
        assert len(each) == int(mask_BT.sum())
        for G, (t, b) in zip(each, mask_BT.T.nonzero().tolist(), strict=True):
            if (b + t) % 3:
                continue
            alone = torch.zeros_like(mask_BT)
            alone[b, t] = True
            true = by_autograd(models, weighed, name, alone)
            torch.testing.assert_close(G, true, rtol=1e-5, atol=1e-8)
            seen += 1
    assert seen > 10


def test_moments_do_not_depend_on_how_rows_are_split(models, weighed):
    held = LossModels(models[1], None, None)
    parts = [weighed.part(part) for part in (slice(0, 3), slice(3, 8))]
    found = {}
    for part in parts:
        with recorded(models[0], part, NAMES, held) as tape:
            found = added(found, moments_of(tape.rollouts(part.streams)))
    with recorded(models[0], weighed, NAMES, held) as tape:
        whole = tape.rollouts(weighed.streams)
    for name in NAMES:
        true = moment_of(whole[name])
        assert found[name].samples == 8
        torch.testing.assert_close(found[name].right, true.right, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found[name].left, true.left, rtol=1e-6, atol=1e-9)


def test_hooks_are_gone_and_other_layers_refused(models, weighed):
    held = LossModels(models[1], None, None)
    for name in ("model.norm.weight", "model.nothing.weight"):
        with (
            pytest.raises(CheckpointError, match="linear layer"),
            recorded(models[0], weighed, [name], held),
        ):
            pass
    with recorded(models[0], weighed, NAMES, held) as tape:
        before = dict(tape.inputs)
    models[0](weighed.input_ids_BS[:, :-1])
    assert tape.inputs == before


@pytest.fixture(scope="module")
def finished(arm, tmp_path_factory):
    changes = {"optimizer": {"lr": 0.02}, "rewards": {"kind": "random"}}
    return train(arm("opd", **changes), tmp_path_factory.mktemp("out"))


def test_the_mechanism_of_a_run_is_rows_of_the_study_table(finished):
    choice = Choice(K=2, prompts=3, rows=4, keep=(0.5, 1.0), matrices=("*.layers.0.*",))
    out = finished.root.parent.parent
    rows = mechanism_of(finished, out, choice, draw=5)
    assert {(row["draw"], row["point"]) for row in rows} == {(5, "step=2")}
    of = {(row["arm"], row["quantity"], row["matrices"]): row for row in rows}
    assert len(of) == len(rows)
    assert {row["arm"] for row in rows} == {*arms_of(choice)}
    for row in rows:
        if row["quantity"].startswith(("locked", "weyl", "mirsky", "wedin")):
            assert 0 <= row["value"] <= 1 + 1e-6
    # all tokens kept is the full gradient, and a mixture is what its parts add up to
    for side in ("right", "left"):
        kept = of["keep100-random", f"fit_residual_{side}", "linear"]
        assert kept["value"] < 1e-5
        assert kept["null"] > 0.05
        assert of["keep100-top", f"fit_factor_{side}", "linear"]["value"] == pytest.approx(1)
        assert of["mixed50", f"mixture_residual_{side}", "linear"]["value"] < 1e-4
        assert of["mixed50", f"mixture_residual_uncrossed_{side}", "linear"]["value"] > 1e-3
        masked = of["keep50-random", f"fit_residual_{side}", "linear"]
        assert masked["value"] > 1e-3
    chance = of["full", "locked_energy_right", "attention"]["null"]
    assert chance == pytest.approx(2 / 16)
    assert of["full-tokens", "locked_energy_left", "mlp"]["value"] > 0
    assert rows == mechanism_of(finished, out, choice, draw=5)


def test_what_has_no_mechanism_is_refused(finished, arm, tmp_path):
    out = finished.root.parent.parent
    with pytest.raises(RecipeError, match="at or after step 9"):
        mechanism_of(finished, out, Choice(step=9))
    alone = train(arm("sft"), tmp_path)
    with pytest.raises(UsageError, match="on-policy distillation"):
        mechanism_of(alone, tmp_path, Choice(K=2))
