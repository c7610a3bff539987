"""The trainer with every objective and its settings, on the tiny laboratory."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma2Config

from offaxis.errors import CheckpointError
from offaxis.objectives.base import Head, TokenBatch
from offaxis.recipe import Precision
from offaxis.tasks.chain import chain13
from offaxis.training.heads import check_head, facts_of, head_of, shared
from offaxis.training.models import new_model, task_tokenizer
from offaxis.training.rows import Rows, encode, packed
from offaxis.training.run import train


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder, so that base and teacher are trained once."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture
def ended(arm, base, out):
    """Trains an arm in float32 and gives its last weights."""

    def run(kind, name, **changes):
        if kind.endswith(("opd", "k1", "k2", "k3")):
            changes["teacher"] = {"recipe": base(arm="teacher", seed=9).resolved()}
        fixed = {"precision": {"autocast": "none"}, "evaluation": {"problems": 1, "samples": 1}}
        folder = train(arm(kind, name=name, **fixed, **changes), out)
        return load_file(folder.checkpoint(folder.steps()[-1]) / "model.safetensors")

    return run


def apart(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_sampled_forms_train_as_they_are_named(ended):
    names = ("reverse_kl_by_k1", "reverse_kl_by_k2", "forward_kl_by_k3")
    k1, k2, k3 = (ended(name, name, steps={"max": 2}) for name in names)
    assert apart(k1, k2) < 0.01 * apart(k2, k3)
    split = ended(names[0], "split", steps={"max": 2}, optimizer={"micro_batches": 2})
    assert apart(k1, split) < 0.01 * apart(k2, k3)


def test_every_divergence_trains_and_each_differently(ended):
    settings = (
        {},
        {"divergence": "forward_kl"},
        {"divergence": "jsd", "beta": 0.3},
        {"support": "student_top_k", "k": 4},
        {"support": "student_top_k", "k": 4, "tail": "bucket"},
        {"temperature": 2.0},
    )
    found = [
        ended("opd", f"opd-{i}", steps={"max": 1}, objective={"kind": "opd", **each})
        for i, each in enumerate(settings)
    ]
    assert all(w.isfinite().all() for weights in found for w in weights.values())
    for i, one in enumerate(found):
        assert all(apart(one, other) > 1e-6 for other in found[:i])


@pytest.mark.parametrize("normaliser", ["grpo", "dr_grpo"])
def test_a_normaliser_does_not_see_how_a_step_is_split(ended, normaliser):
    objective = {"kind": "grpo", "normaliser": normaliser, "dynamic_filter": True}
    whole, split = (
        ended(
            "grpo",
            f"{normaliser}-{parts}",
            objective=objective,
            optimizer={"micro_batches": parts},
            data={"prompts": 4},
            steps={"max": 2},
        )
        for parts in (1, 4)
    )
    plain = ended("grpo", f"{normaliser}-dapo", data={"prompts": 4}, steps={"max": 2})
    assert apart(whole, split) < 0.01 * apart(whole, plain)


def test_the_reference_is_the_start_and_holds_the_student_there(ended):
    def runs(steps):
        return [
            ended(
                "grpo",
                f"reference-{beta}-{steps}",
                objective={"kind": "grpo", "reference_kl": beta},
                steps={"max": steps},
            )
            for beta in (0.0, 10.0)
        ]

    # At the start itself the KL has no gradient.
    assert apart(*runs(1)) < 1e-5
    free, held = runs(3)
    assert apart(free, held) > 1e-4


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer(chain13)


@pytest.fixture(scope="module")
def model(base, tokenizer):
    config = base().start.config.model_copy(update={"init_std": 0.3})
    return new_model(config, tokenizer, Precision(autocast="none"))


def test_a_head_makes_the_model_s_own_logits_and_leaves_the_model_alone(model, tokenizer):
    rows = packed(encode(tokenizer, [("Q0+0;=", "0+00+00#0$"), ("", "A1-10$")]), 0)
    check_head(model, "test")
    own = model(input_ids=rows.input_ids_BS[:1, :-1]).logits
    first = Rows(rows.input_ids_BS[:1], rows.position_ids_BS[:1], None, rows.batch.part(slice(1)))
    torch.testing.assert_close(head_of(model, first).logits(), own)
    assert "forward" not in vars(model.lm_head)
    was_training = model.training
    facts = facts_of(model, first, None)
    assert model.training is was_training
    assert facts.teacher_logprobs_BT is None
    log_p = own.log_softmax(-1).gather(-1, first.batch.tokens_BT[..., None])[..., 0]
    expected = log_p.where(first.batch.mask_BT, 0.0)
    torch.testing.assert_close(facts.logprobs_BT, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_model_that_caps_its_logits_is_refused():
    config = Gemma2Config(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.01,
    )
    capped = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with pytest.raises(CheckpointError, match="neither scales nor caps"):
        check_head(capped, "test")


def test_vocabularies_of_other_padding_are_shared():
    hidden = torch.randn(1, 2, 3)
    heads = {name: Head(hidden, torch.randn(v, 3)) for name, v in (("a", 5), ("b", 7))}
    found = shared(heads)
    assert [len(head.weight_VD) for head in found.values()] == [5, 5]
    assert torch.equal(found["b"].weight_VD, heads["b"].weight_VD[:5])
    batch = TokenBatch(torch.zeros(1, 2).long(), torch.ones(1, 2).bool())
    assert batch.part(slice(1)).mask_BT.shape == (1, 2)
